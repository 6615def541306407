"""What there is to choose from, and what a user's file adds to it: names with a line each, by section."""

import inspect
from types import ModuleType

import torch
from torch import nn

from kanpde.backbones import BACKBONES
from kanpde.config import library
from kanpde.kan.basis import BASES
from kanpde.kan.basis.base import Basis
from kanpde.operators import OPERATORS, Operator
from kanpde.optim.optimisers import OPTIMISERS
from kanpde.problems import PROBLEMS, Problem
from kanpde.users.modules import load_module

Sections = dict[str, dict[str, str]]


def shipped() -> Sections:
    """The members that kanpde ships."""
    tables = {"problems": PROBLEMS, "backbones": BACKBONES, "bases": BASES, "operators": OPERATORS}
    sections = {title: {name: _line(member) for name, member in table.items()} for title, table in tables.items()}
    sections["optimisers"] = {name: member.about for name, member in OPTIMISERS.items()}
    files = sorted(library("solvers").glob("*.yaml"))
    first = lambda path: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    return sections | {"solvers": {path.stem: first(path) for path in files}}


def members_in(file: str) -> Sections:
    """The members that a user's file defines, by the names that a configuration gives them.

    Raises:
        ConfigError: it cannot be read.
    """
    module, found = load_module(file), {title: {} for title in ("problems", "backbones", "operators", "optimisers")}
    for name, member in vars(module).items():
        title = _section(member, module)
        if title is not None:
            found[title][f"{file}:{name}"] = _line(member)
            if inspect.isclass(member) and issubclass(member, Basis):
                found[title][f"{file}:meta{name}"] = f"{_line(member)} Its weights are generated."
    return {title: members for title, members in found.items() if members}


def _section(member, module: ModuleType) -> str | None:
    """What a member of a module can be chosen as; None: nothing."""
    if getattr(member, "__module__", None) != module.__name__:
        return None
    kinds = {Problem: "problems", Operator: "operators", torch.optim.Optimizer: "optimisers", nn.Module: "backbones"}
    if inspect.isclass(member):
        return next((title for kind, title in kinds.items() if issubclass(member, kind)), None)
    builds = inspect.isfunction(member) and {"dim_in", "generator"} <= inspect.signature(member).parameters.keys()
    return "backbones" if builds else None


def _line(member) -> str:
    return next(iter((member.__doc__ or "").strip().splitlines()), "")
