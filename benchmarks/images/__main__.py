"""`python -m benchmarks.images`, which would be the name of this room: the command line of dense.py."""

from benchmarks.common.study import exiting
from benchmarks.images.dense import main

if __name__ == "__main__":
    exiting(main, "images")
