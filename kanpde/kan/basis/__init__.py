"""The bases of edge functions by name."""

from kanpde.kan.basis.bspline import BSpline
from kanpde.kan.basis.chebyshev import Chebyshev
from kanpde.kan.basis.fourier import Fourier
from kanpde.kan.basis.gram import Gram
from kanpde.kan.basis.legendre import Legendre
from kanpde.kan.basis.rbf import GaussianRBF
from kanpde.kan.basis.wavelet import Wavelet

BASES = {
    "bspline": BSpline,
    "rbf": GaussianRBF,
    "chebyshev": Chebyshev,
    "legendre": Legendre,
    "gram": Gram,
    "fourier": Fourier,
    "wavelet": Wavelet,
}

__all__ = ["BASES", "BSpline", "Chebyshev", "Fourier", "GaussianRBF", "Gram", "Legendre", "Wavelet"]
