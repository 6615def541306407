"""python -m kanpde: the console script."""

from kanpde.cli import main

if __name__ == "__main__":
    main()
