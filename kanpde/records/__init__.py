"""Files: the result of a run in HDF5, tables in CSV and NPZ, and runs side by side."""
