"""A page on a run, or on the runs of a folder: one HTML file that needs nothing beside it, and no network."""

from kanpde.report.live import watch
from kanpde.report.pages import report

__all__ = ["report", "watch"]
