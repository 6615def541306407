"""Modules by the names of former versions, under which files of users, and those kept in results, import them."""

import importlib
import importlib.machinery
import importlib.util
from types import ModuleType

FORMER = {
    "ansatz": "jets.ansatz",
    "api": "runs.api",
    "jet": "jets.jet",
    "losses": "training.losses",
    "metrics": "ground.metrics",
    "record": "runs.models",
    "samplers": "ground.samplers",
}


class Former:
    """Finds kanpde.jet, which is kanpde.jets.jet by now, as a module of the same objects."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        package, _, last = name.partition(".")
        if package != "kanpde" or last not in FORMER:
            return None
        return importlib.util.spec_from_loader(name, _Loader(f"kanpde.{FORMER[last]}"))


class _Loader:
    def __init__(self, now: str):
        self.now = now

    def create_module(self, spec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        objects = vars(importlib.import_module(self.now))
        vars(module).update({name: value for name, value in objects.items() if not name.startswith("__")})
