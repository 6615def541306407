"""Jets: value and derivatives of a network and of the ansatz around it, in one forward pass."""

from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.jet import Jet, rule

__all__ = ["Ansatz", "Field", "Jet", "rule"]
