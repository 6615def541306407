"""The function that a run has found, as files for programs that do not know kanpde."""

from kanpde.export.formats import FORMATS, export

__all__ = ["FORMATS", "export"]
