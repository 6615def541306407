"""python -m kanpde: the console script."""

from kanpde.cli import main

main()
