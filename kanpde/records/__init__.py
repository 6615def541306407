"""Files: the result of a run in HDF5, tables in CSV and NPZ, and runs side by side."""

from kanpde.records.run import RunFile, RunFileError, replacing

__all__ = ["RunFile", "RunFileError", "replacing"]
