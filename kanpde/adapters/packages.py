"""The packages that are adapted to, imported when they are needed; their outputs, and what these were computed from."""

import importlib
from types import ModuleType
from typing import Any

from torch import Tensor

from kanpde.adapters.derivatives import Derivatives
from kanpde.ground.errors import ConfigError

HELD = "_kanpde_derivatives"  # of an output


def imported(name: str, extra: str) -> ModuleType:
    """A module of a package.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} cannot be imported ({error}): pip install 'kanpde[{extra}]'") from None


def held_by(output: Tensor, derivatives: Derivatives) -> Tensor:
    """The output of a network, which hands on the derivatives of what it is the value of."""
    setattr(output, HELD, derivatives)
    return output


def derivatives_of(output: Any, operator: str) -> Derivatives:
    """Those that an output of a network of kanpde holds.

    Raises:
        ConfigError: it is none, or a part of one.
    """
    if (found := getattr(output, HELD, None)) is None:
        raise ConfigError(f"{operator}: given no output of a network of kanpde.adapters, whole as the function gets it")
    return found


def made_as(table: dict[str, Any], shape: Any, package: str) -> Any:
    """The entry of a table for the class of a geometry, by its name or those of the classes that it derives from.

    Raises:
        ConfigError: there is none.
    """
    names = [kind.__name__ for kind in type(shape).__mro__]
    if (found := next((table[name] for name in names if name in table), None)) is None:
        raise ConfigError(f"domain: given a {names[0]}, known of {package} are {', '.join(table)}")
    return found
