"""A formula for the rows of a fit, without a network to begin with."""

from kanpde.recover.recover import recover

__all__ = ["recover"]
