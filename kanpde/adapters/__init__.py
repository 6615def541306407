"""Networks and exact derivatives of kanpde in programs that are written for other packages, or for torch alone.

`Derivatives` needs torch only. `kanpde.adapters.deepxde` and `kanpde.adapters.pina` import their packages when their
functions are called, and nothing before.
"""

from kanpde.adapters.derivatives import Derivatives

__all__ = ["Derivatives"]
