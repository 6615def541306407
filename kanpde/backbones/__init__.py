"""Backbones: the networks by name, (N, dim_in) -> (N, dim_out)."""

from kanpde.backbones.builders import ACTIVATIONS, KANOptions, MetaKANOptions, kan, metakan, mlp, specialise, widths_of
from kanpde.backbones.families import BACKBONES, FAMILIES, build, defaults, family

__all__ = [
    "ACTIVATIONS",
    "BACKBONES",
    "FAMILIES",
    "KANOptions",
    "MetaKANOptions",
    "build",
    "defaults",
    "family",
    "kan",
    "metakan",
    "mlp",
    "specialise",
    "widths_of",
]
