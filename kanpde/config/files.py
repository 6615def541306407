"""Configurations from YAML files: solver < problem < command line; shipped files go by their names."""

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from kanpde.config.reading import read_yaml
from kanpde.config.schema import RunConfig, plainly
from kanpde.config.trees import NAMED, assign, merge, validate
from kanpde.ground.errors import ConfigError, suggest

PACKAGE = Path(__file__).resolve().parent.parent
FILES = {"data": ("file", "test"), "stl_diffusion": ("part",)}  # options of shipped problems that are files
AUTO = "auto"  # the name of no solver: the run's plan, which knows the problem, finds one
HIGH_DIM = 1000  # inputs from which high_dim is the default solver


def load(
    problem: str | Path,
    solver: str | None = None,
    overrides: Mapping | None = None,
    sets: Sequence[str] = (),
    steps: int | None = None,
) -> RunConfig:
    """The configuration of a run: the solver's YAML, then the problem's, then overrides, then `a.b=c` strings.

    Args:
        problem: a YAML file, the name of one that kanpde ships, or a class in a file of Python, my_pde.py:MyPDE.
        solver: likewise, or auto, for which `kanpde.training.choice` finds one; default what the problem's file says
            under `solver`, else `default_solver` of the dimension.
        overrides: nested mapping.
        sets: strings such as points.interior=500; list items by number (phases.0.steps=100).
        steps: rescale all phases in proportion to this total.
    Raises:
        ConfigError: anything that does not fit.
    """
    tree, folder = _statement(str(problem))
    own = tree.pop("solver", None)
    tree.pop("sweep", None)  # which is that of `kanpde sweep`
    named = solver or own
    below = read_yaml(find("solvers", "default" if named in (None, AUTO) else str(named)))
    stated = merge(tree, overrides or {})
    tree = merge(below, stated)
    for assignment in sets:
        assign(tree, assignment)
    of_solver = unstated(below, {*stated, *(assignment.partition("=")[0] for assignment in sets)})
    config = validate(located(tree, folder), steps, of_solver)
    if named == AUTO:
        config._under = partial(load, problem, overrides=overrides, sets=sets, steps=steps)
        return config
    best = named or default_solver(config.problem.get("dim"))
    return config if best in (named, "default") else load(problem, best, overrides, sets, steps)


def _statement(problem: str) -> tuple[dict, Path]:
    """What states a problem, and the folder beside which its files are."""
    file, _, cls = problem.rpartition(":")
    if file.endswith(".py") and cls:
        return {"problem": {"name": problem}}, Path()
    if problem.endswith(".py"):
        raise ConfigError(f"{problem}: name the class of the problem too, {problem}:MyPDE")
    path = find("problems", problem)
    return read_yaml(path), path.parent


def unstated(solver: Mapping, stated: Collection[str]) -> dict:
    """What is a solver's alone; a start that the user states too is the user's, to be refused where there is none."""
    return {key: value for key, value in solver.items() if key != "start" or key not in stated}


def default_solver(dim: object) -> str:
    """The solver of a PDE for which none is named."""
    return "high_dim" if isinstance(dim, int) and dim >= HIGH_DIM else "default"


def find(folder: str, name: str) -> Path:
    """The YAML file: a path as given, or a bare name among the shipped ones (folder is problems or solvers)."""
    given = Path(name)
    if os.path.isfile(given):
        return given
    known = {p.stem: p for p in sorted(library(folder).glob("*.yaml"))}
    if given.suffix not in (".yaml", ".yml") and len(given.parts) == 1:
        if name in known:
            return known[name]
        raise ConfigError(suggest(f"{folder[:-1]}", name, list(known)))
    near = difflib.get_close_matches(given.stem, known, n=1)
    raise ConfigError(f"{name}: no such file" + (f"; shipped is {near[0]}" if near else ""))


def library(folder: str) -> Path:
    """The folder of shipped YAML files, in an installed package or a checkout."""
    installed = PACKAGE / "_library" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder


def shipped(name: str) -> Path:
    """A file beside the shipped problems, such as references/kdv.npz."""
    return library("problems") / name


def located(tree: Mapping, folder: Path) -> dict:
    """A tree in which files, of users and of problems, are absolute; given they are beside the one that names them."""
    found = dict(tree)
    for key in NAMED:
        if isinstance(found.get(key), str):
            found[key] = {"name": found[key]}
        if isinstance(found.get(key), Mapping) and "name" in found[key]:
            found[key] = {**found[key], "name": _absolute(found[key]["name"], folder)}
    if isinstance(found.get("phases"), list):
        found["phases"] = [
            {**phase, "optimizer": _absolute(phase["optimizer"], folder)}
            if isinstance(phase, Mapping) and "optimizer" in phase
            else phase
            for phase in found["phases"]
        ]
    if "reference" in found:
        found["reference"] = _located_reference(found["reference"], folder)
    problem = found.get("problem")
    if isinstance(problem, Mapping):
        read = FILES.get(str(problem.get("name")), ())
        files = {key: str(beside(folder, problem[key])) for key in read if isinstance(problem.get(key), str)}
        found["problem"] = {**problem, **files}
    return found


def _located_reference(given, folder: Path):
    """A reference with the path of its file."""
    given = plainly(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("file"), str):
        return given
    return {**given, "file": str(beside(folder, os.path.expanduser(given["file"])))}


def _absolute(name, folder: Path):
    """my_pde.py:MyPDE with the path of the file; any other name as it is."""
    file, colon, cls = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    return f"{beside(folder, file)}:{cls}" if colon else name


def beside(folder: Path, file: str) -> Path:
    """A file in a folder, or else in the current one."""
    near = folder / file
    return (near if os.path.isfile(near) else Path(file)).resolve()
