"""The packages that are adapted to, imported when they are needed; their outputs, and what these were computed from."""

import importlib
from collections.abc import Callable
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


class Held(Derivatives):
    """Those of an output that a network has given, which holds them: what was computed of it is kept with it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._known: dict[tuple, Tensor] = {}

    def output(self, kind: type[Tensor] = Tensor) -> Tensor:
        """u as a tensor of some kind, from which `derivatives_of` gets these."""
        found = self.value().as_subclass(kind)
        setattr(found, HELD, self)
        return found

    def _first(self, axes: tuple[int, ...]) -> Tensor:
        return self._once(super()._first, axes)

    def _second(self, axes: tuple[int, ...]) -> Tensor:
        return self._once(super()._second, axes)

    def _mixed(self, axes: tuple[int, ...]) -> Tensor:
        return self._once(super()._mixed, axes)

    def _once(self, compute: Callable[[tuple[int, ...]], Tensor], axes: tuple[int, ...]) -> Tensor:
        key = (compute.__name__, axes)
        if key not in self._known:
            self._known[key] = compute(axes)
        return self._known[key]


def derivatives_of(output: Any, operator: str) -> Held:
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
