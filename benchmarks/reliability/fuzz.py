"""Whether anything that is given ends in a traceback, a crash or a hang: drawn configurations, and damaged files.

    python -m benchmarks.fuzz [--configurations 2000] [--files 10000] [--seed 0]
        [--out benchmarks/results/fuzz.md]      (needs pip install -e '.[test]')

A configuration is drawn by hypothesis over problems, domains, conditions, backbones, operators, optimisers, losses,
points, starts and dtypes, extremes among them, and trained for three steps. A file is a sound one of its kind of which
some bytes, lines or numbers are changed, cut out, doubled or cut off, by the seed, and given to what reads it. All of
it happens in another process with bounded memory, which is started again where it ends.

finished: three steps with finite losses, or the file could be read. one line: refused, or stopped, in one line that a
user can act on. All else is a failure: a traceback, more than one line, a crash of the process, more than --seconds, or
more memory than its bound. The table counts; failures are listed with what is needed to see them again, `--only N`.
"""

import argparse
import json
import multiprocessing as mp
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import torch
import yaml
from hypothesis import strategies as st

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, above_zero, at_least, exiting, markdown
from kanpde import Problem, RunFailed, train
from kanpde.backbones import BACKBONES
from kanpde.config import load, shipped
from kanpde.domains import Ball, Box, Cylinder, Ellipsoid, Polygon, Simplex, Surface
from kanpde.ground.errors import ConfigError
from kanpde.operators import OPERATORS
from kanpde.optim.optimisers import OPTIMISERS
from kanpde.problems import LOW_DIM, ON_BALL, ON_PATHS, Reference
from kanpde.problems.conditions import Dirichlet, Initial, Neumann, Periodic, Robin
from kanpde.problems.data import Data
from kanpde.records.run import RunFileError
from kanpde.runs.models import Run

MEMORY = 16 * 2**30  # of addresses of the other process, of which torch takes some for itself
REFUSALS = (ConfigError, RunFailed, RunFileError)
OUTCOMES = ("finished", "one line")
FAILURES = ("traceback", "several lines", "not finite", "crash", "hang", "memory")
COLUMNS = ("block", "kind", "outcome", "count", "says")
BLOCK = 100  # tries between two rows of the table, of which those alike are counted together

# ---------------------------------------------------------------------------------------------------------------
# Configurations


@dataclass(frozen=True)
class Stated(Problem):
    """Lap u = 1, u_t beside it where there is time, with a domain and conditions that are drawn."""

    dim: int = 2
    where: Any = None
    given: tuple = ()

    @property
    def domain(self):
        return self.where

    @property
    def conditions(self):
        return self.given

    def residual(self, u, x):
        return u.lap - 1.0


class Timed(Stated):
    """The same in time."""

    def residual(self, u, x):
        return u.t - u.lap - 1.0


SPACES: dict[str, Callable[[], Any]] = {
    "ball": lambda: Ball(2),
    "small ball": lambda: Ball(2, radius=1e-3, center=(1e3, 0.0)),
    "interval": lambda: Box(1, -1, 1),
    "box": lambda: Box(2, (0, -5), (1, 5)),
    "ellipsoid": lambda: Ellipsoid((1.0, 0.2)),
    "simplex": lambda: Simplex(2),
    "L": lambda: Polygon([[0, 0], [1, 0], [1, 0.5], [0.5, 0.5], [0.5, 1], [0, 1]]),
    "with a hole": lambda: Box(2, -1, 1) - Ball(2, radius=0.4),
    "part": lambda: Surface(shipped("references/bracket.stl")),
}
CONDITIONS: dict[str, Callable[[], tuple]] = {
    "none": lambda: (),
    "value": lambda: (Dirichlet(),),
    "value of x": lambda: (Dirichlet(value=lambda x: x[:, 0].square()),),
    "flux": lambda: (Neumann("boundary", 1.0),),
    "robin": lambda: (Robin("boundary", 2.0, 1.0, lambda x: x.sum(1)),),
    "side": lambda: (Dirichlet("x1 = high", 1.0),),
    "periodic": lambda: (Periodic("x1"),),
    "two": lambda: (Dirichlet(lambda x: x[:, 0] > 0), Neumann(lambda x: x[:, 0] <= 0)),
}


def problems() -> st.SearchStrategy[dict]:
    """The library with its options, and statements of one's own."""
    dims = st.sampled_from([1, 2, 3, 5, 20])
    named = st.builds(lambda name, dim: {"name": name, "dim": dim}, st.sampled_from([*ON_BALL, *ON_PATHS]), dims)
    low = st.builds(lambda name: {"name": name}, st.sampled_from(sorted(LOW_DIM)))
    formulas = st.sampled_from(["x*y", "exp(-x**2) + y", "1/x", "sqrt(x - 2)", "x", "1e30 * x", "y - y"])
    fits = st.builds(lambda f: {"name": "function", "formula": f}, formulas)
    stated = st.fixed_dictionaries(
        {
            "domain": st.sampled_from(sorted(SPACES)),
            "conditions": st.sampled_from(sorted(CONDITIONS)),
            "time": st.booleans(),
        }
    )
    return st.one_of(named, named, low, low, fits, stated, stated)


@st.composite
def some(draw, options: dict[str, st.SearchStrategy]) -> dict:
    """A mapping with each of these keys in one of four cases, so that most of what is drawn can be trained."""
    return {name: draw(values) for name, values in options.items() if not draw(st.integers(0, 3))}


@st.composite
def backbones(draw) -> dict:
    """Networks of all kinds, narrow ones, and grids of one interval and of 200; seldom an option of another kind."""
    name = draw(st.sampled_from(sorted(BACKBONES)))
    options = {
        "widths": st.lists(st.sampled_from([1, 2, 5, 16]), max_size=3),
        "grid_size": st.sampled_from([1, 3, 200]),
        "spline_order": st.sampled_from([1, 2, 3, 4, 7]),
        "degree": st.sampled_from([1, 3, 20]),
        "norm": st.sampled_from(["none", "hidden"]),
        "bias": st.booleans(),
        "grid_range": st.sampled_from([[-1, 1], [-1e-6, 1e-6], [5, 6]]),
        "hidden_range": st.sampled_from([[-1, 1], [-1e3, 1e3]]),
        "prompt_dim": st.sampled_from([1, 3]),
    }
    known = signature(BACKBONES[name]).parameters
    any_kind = not draw(st.integers(0, 19))
    return {"name": name, **draw(some({k: v for k, v in options.items() if k in known or any_kind}))}


def losses() -> st.SearchStrategy[dict]:
    """Terms, weights, balances and emphases, that go together or do not."""
    weights = st.dictionaries(st.sampled_from(["interior", "boundary"]), st.sampled_from([0.0, 1.0, 1e12]), max_size=1)
    return some(
        {
            "residual": st.sampled_from(["square", "square", "two_sample"]),
            "scale": st.sampled_from(["2d", "none"]),
            "gradient": st.sampled_from(["none", "exact", "almost_everywhere"]),
            "balance": st.sampled_from(["gradnorm", "ntk", "relobralo"]),
            "emphasis": st.sampled_from(["rba", "causal"]),
            "weights": weights,
        }
    )


@st.composite
def configurations(draw) -> dict:
    """All keys of a run that have to do with each other."""
    more = {
        "lr": st.sampled_from([1e-12, 1e-3, 1e3]),
        "schedule": st.sampled_from(["constant", "cosine", "one_cycle"]),
        "update_grid": st.booleans(),
    }
    phase = {"optimizer": draw(st.sampled_from(sorted(OPTIMISERS))), "steps": 3, **draw(some(more))}
    points = {
        "sequence": st.sampled_from(["random", "sobol"]),
        "refresh": st.sampled_from([2, "fixed"]),
        "adapt": st.just({"candidates": 2}),
        "boundary": st.sampled_from([0, 1, 9]),
    }
    interior = draw(st.sampled_from([1, 2, 17, 17]))
    options = {
        "operator": st.sampled_from(sorted(OPERATORS)),
        "loss": losses(),
        "constraint": st.sampled_from(["hard", "soft"]),
        "start": st.sampled_from(["network", "constant", "affine", "additive", "quadratic", "ladder"]),
        "dtype": st.sampled_from(["float32", "float64", "float64", "bfloat16"]),
        "networks": st.sampled_from(["shared", "separate"]),
        "average": st.sampled_from([None, 0.5]),
        "units": st.sampled_from(["frame", "given"]),
        "seed": st.sampled_from([0, 7]),
    }
    return {
        "problem": draw(problems()),
        "backbone": draw(backbones()),
        "phases": [phase],
        "points": {"interior": interior, "test": 64, "validation": 16, **draw(some(points))},
        **draw(some(options)),
    }


def trained(tree: dict, folder: Path) -> str:
    """Three steps of a configuration."""
    tree = {**tree, "verify": False, "slices": {"points": 3, "volume": 0}, "compile": False}
    given, out = dict(tree.pop("problem")), folder / "run.h5"
    for left in folder.iterdir():
        left.unlink()
    if "name" in given:
        solver = "fit" if given["name"] == "function" else "adam"
        config = load(_written(folder, {"problem": given}), solver, tree)
        from kanpde.users.members import problem_of

        run = train(problem_of(config.problem), config=config, out=out)
    else:
        space = SPACES[given["domain"]]()
        where = Cylinder(space, 1.0) if given["time"] else space
        start = (Initial(0.0),) if given["time"] else ()
        kind = Timed if given["time"] else Stated
        problem = kind(space.dim, where, (*CONDITIONS[given["conditions"]](), *start))
        run = train(problem, out=out, solver="adam", **tree)
    if run.attrs["status"] != "finished":
        raise RunFailed(run.attrs["message"])
    losses = np.asarray(run.history["loss"][1:], dtype=float)
    return "finished" if np.isfinite(losses).all() and len(losses) else "not finite"


def _written(folder: Path, tree: dict) -> Path:
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------------------
# Files


class Kind(NamedTuple):
    """A kind of files: its ending, how a sound one is made, and what reads it."""

    ending: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]


@dataclass(frozen=True)
class Rod(Problem):
    """What the references are of."""

    dim: int = 1
    coordinates = ("x", "t")

    @property
    def domain(self):
        return Cylinder(Box(1, 0, 1), 2.0)

    def residual(self, u, x):
        return u.t - u.xx

    def initial_value(self, x):
        return x[:, 0] * (1 - x[:, 0])


X, T = np.linspace(0, 1, 7), np.linspace(0, 2, 5)
U = np.sin(np.pi * X)[:, None] * np.exp(-T)
ROWS = np.stack([np.repeat(X, len(T)), np.tile(T, len(X)), U.ravel()], 1)
FEW = {"interior": 8, "test": 32, "validation": 8}
SMALL = {"backbone": {"name": "kan", "widths": [2]}, "points": FEW, "verify": False}


def _a_run(path: Path) -> None:
    """A result with its checkpoint."""
    from kanpde.problems import Poisson

    path.unlink(missing_ok=True)
    train(Poisson(2), out=path, solver="adam", steps=2, slices={"points": 3, "volume": 0}, **SMALL)


def _a_checkpoint(path: Path) -> None:
    _a_run(path.with_suffix(".h5"))


def _read_run(path: Path) -> None:
    """All that a result has."""
    run = Run.open(path)
    _ = run.history, run.floors, run.field, run.meshes, run.verification, run.rel_l2
    run.load_model()


def _read_checkpoint(path: Path) -> None:
    Run.open(path.with_suffix(".h5")).load_model()


def _a_mat(path: Path, newer: bool = False) -> None:
    if newer:
        import h5py

        with h5py.File(path, "w", userblock_size=512) as file:
            file["x"], file["t"], file["u"] = X[:, None], T[:, None], U.T
        return
    from scipy.io import savemat

    savemat(path, {"x": X, "t": T, "u": U})


def _a_mesh(path: Path) -> None:
    import pyvista

    cloud = pyvista.PolyData(np.stack([ROWS[:, 0], ROWS[:, 1], 0 * ROWS[:, 0]], 1)).delaunay_2d()
    cloud["u"] = ROWS[:, 2]
    cloud.cast_to_unstructured_grid().save(path)


def _read_reference(path: Path) -> None:
    names = {"x": "x", "t": "y"} if path.suffix == ".vtu" else None
    found = Reference(path, coordinates=names).open(Rod())
    found.at(np.arange(min(found.count, 1000)))


def _a_table(path: Path) -> None:
    np.savetxt(path, ROWS, delimiter=",", header="x,t,u", comments="")


def _a_yaml(path: Path) -> None:
    path.write_text(shipped("allen_cahn_1d.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def _read_yaml(path: Path) -> None:
    load(path)


def _a_surface(path: Path) -> None:
    path.write_bytes(shipped("references/bracket.stl").read_bytes())


KINDS = {
    "YAML": Kind(".yaml", _a_yaml, _read_yaml),
    "result": Kind(".h5", _a_run, _read_run),
    "checkpoint": Kind(".pt", _a_checkpoint, _read_checkpoint),
    "rows (CSV)": Kind(".csv", _a_table, lambda path: Data(file=str(path))),
    "surface (STL)": Kind(".stl", _a_surface, lambda path: Surface(path)),
    "reference (MAT)": Kind(".mat", _a_mat, _read_reference),
    "reference (MAT 7.3)": Kind(".mat", lambda path: _a_mat(path, newer=True), _read_reference),
    "reference (NPZ)": Kind(".npz", lambda path: np.savez(path, x=X, t=T, u=U), _read_reference),
    "reference (CSV)": Kind(".csv", _a_table, _read_reference),
    "reference (text)": Kind(
        ".dat", lambda path: np.savetxt(path, ROWS, header="x t u", comments="% "), _read_reference
    ),
    "reference (VTU)": Kind(".vtu", _a_mesh, _read_reference),
}
WORDS = (b"0", b"-1", b"1e999", b"nan", b"9" * 21, b"2147483648", b"", b"[]", b"{}", b"null", b"'", b"\t")


PRINTED = b"0123456789eE+-., :;[]{}()<>'\"abxyz\n"


def damaged(content: bytes, drawn: random.Random) -> bytes:
    """One to four changes, mostly one: the first that a reader finds is all that it tells of."""
    for _ in range(drawn.choice([1, 1, 1, 2, 4])):
        content = drawn.choice(CHANGES)(content, drawn)
    return content


def _flipped(content: bytes, drawn: random.Random) -> bytes:
    found, letters = bytearray(content), drawn.choice([range(256), PRINTED])
    for _ in range(drawn.choice([1, 1, 4, 32])):
        if found:
            found[drawn.randrange(len(found))] = drawn.choice(letters)
    return bytes(found)


def _cut_off(content: bytes, drawn: random.Random) -> bytes:
    return content[: drawn.randint(0, len(content))]


def _place(content: bytes, drawn: random.Random) -> tuple[int, int]:
    start = drawn.randint(0, len(content))
    return start, min(len(content), start + drawn.choice([1, 4, 8, 64, 512]))


def _cut_out(content: bytes, drawn: random.Random) -> bytes:
    start, stop = _place(content, drawn)
    return content[:start] + content[stop:]


def _doubled(content: bytes, drawn: random.Random) -> bytes:
    start, stop = _place(content, drawn)
    return content[:stop] + content[start:stop] * drawn.choice([1, 1, 50]) + content[stop:]


def _of_numbers(content: bytes, drawn: random.Random) -> bytes:
    """A word, or the bytes of a number, in the place of others."""
    start, _ = _place(content, drawn)
    packed = struct.pack(drawn.choice("<q <d <i <f".split()), drawn.choice([0, 1, -1, 2**31 - 1]))
    new = drawn.choice([drawn.choice(WORDS), packed])
    return content[:start] + new + content[start + len(new) :]


def _lines(content: bytes, drawn: random.Random) -> bytes:
    """Two lines in each other's places."""
    lines = content.split(b"\n")
    i, j = (drawn.randrange(len(lines)) for _ in range(2))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


CHANGES = (_flipped, _flipped, _cut_off, _cut_out, _doubled, _of_numbers, _lines)


# ---------------------------------------------------------------------------------------------------------------
# Another process, which is started again where it ends


def tried(work: Callable[[], str | None]) -> tuple[str, str]:
    """What comes of a call, and what it says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work() or "finished", ""
    except REFUSALS as error:
        said = str(error)
        return ("one line" if said and "\n" not in said else "several lines"), said
    except MemoryError as error:
        return "memory", str(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


def serve(pipe) -> None:
    """Do what comes through a pipe until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    sound: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                kind, given = pipe.recv()
            except EOFError:
                return
            pipe.send(tried(partial(_do, kind, given, Path(folder), sound)))


def _do(kind: str, given, folder: Path, sound: dict[str, Path]) -> str | None:
    if kind != "configuration":
        return _read(KINDS[kind], kind, given, folder, sound)
    where = folder / "run"
    where.mkdir(exist_ok=True)
    return trained(given, where)


def _read(kind: Kind, name: str, seed: int, folder: Path, sound: dict[str, Path]) -> None:
    """A damaged file of a kind, by its seed."""
    if name not in sound:
        place = folder / f"sound{len(sound)}"
        place.mkdir()
        kind.make(place / f"file{kind.ending}")
        sound[name] = place
    given, damage = folder / "damaged", random.Random(seed)
    given.mkdir(exist_ok=True)
    for left in given.iterdir():
        left.unlink()
    for file in sound[name].iterdir():
        content = file.read_bytes()
        (given / file.name).write_bytes(damaged(content, damage) if file.suffix == kind.ending else content)
    kind.read(given / f"file{kind.ending}")


@dataclass
class Other:
    """The other process."""

    seconds: float
    _process: Any = field(default=None, repr=False)

    def ask(self, kind: str, given) -> tuple[str, str]:
        """What comes of a try there, and what it says."""
        if self._process is None or not self._process.is_alive():
            context = mp.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        self._pipe.send((kind, given))
        try:
            if self._pipe.poll(self.seconds):
                return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return "crash", f"exit code {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        return "hang", f"more than {self.seconds:g} s"

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()


# ---------------------------------------------------------------------------------------------------------------
# The table


class Enough(Exception):
    """Hypothesis need draw no more."""


def drawn(count: int, seed: int) -> list[dict]:
    """So many different configurations."""
    found: dict[str, dict] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=4 * count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(configurations())
    def collect(tree: dict) -> None:
        found.setdefault(json.dumps(tree, sort_keys=True), tree)
        if len(found) >= count:
            raise Enough

    with suppress(Enough):
        collect()
    return list(found.values())[:count]


def tasks(args: argparse.Namespace) -> list[tuple[int, str, Any]]:
    """Number, kind, and a configuration or a seed; in an order in which whatever part is done has some of each."""
    trees = drawn(args.configurations, args.seed) if args.configurations else []
    found = [(n / len(trees), n, "configuration", tree) for n, tree in enumerate(trees)]
    for k in range(args.files):
        kind = list(KINDS)[k % len(KINDS)]
        found.append((k / args.files, args.configurations + k, kind, args.seed * 10**6 + k))
    return [task[1:] for task in sorted(found, key=lambda task: task[:2])]


def study(out: Path) -> Study:
    """Some rows a block."""
    return Study(out, COLUMNS, report, lambda row: int(row["block"]), lambda row: int(row["block"]))


def counted(block: int, ended: Sequence[tuple[int, str, str, str]]) -> list[Row]:
    """The rows of a block of (number, kind, outcome, what it says): a count of those alike, a row for each failure."""
    alike = Counter(
        (kind, outcome, f"{number}: {' '.join(says.split())}"[:300] if outcome in FAILURES else "")
        for number, kind, outcome, says in ended
    )
    return [dict(zip(COLUMNS, (str(block), *key[:2], str(n), key[2]), strict=True)) for key, n in alike.items()]


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a kind, and the failures."""
    heading = ("kind", "tried", *OUTCOMES, *FAILURES)
    lines = []
    for kind in ("configuration", *KINDS):
        found = Counter()
        for row in rows:
            found[row["outcome"]] += int(row["count"]) * (row["kind"] == kind)
        if found.total():
            lines.append([kind, sum(found.values()), *(found[name] for name in (*OUTCOMES, *FAILURES))])
    failed = [row for row in rows if row["outcome"] in FAILURES]
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    listed = [f"- {row['kind']}: {row['outcome']}, {row['says']}" for row in failed[:50]]
    total = f"{sum(int(row['count']) for row in rows):,} tried, {len(failed)} failed."
    text = ["# Fuzzing", "", "\n\n".join(about), "", machine(), "", *markdown(heading, lines), "", total, "", *listed]
    return "\n".join(text).rstrip() + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("fuzz", __doc__)
    parser.add_argument("--configurations", type=int, default=2000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="that one try may take")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these tries alone, and what they say")
    parser.common(RESULTS / "fuzz.md", quick="20 configurations and 110 files")
    args = parser.parse_args(argv)
    if args.quick:
        args.configurations, args.files = 20, 110
    at_least(args, {"configurations": 0, "files": 0, "seed": 0})
    above_zero(args, "seconds")
    every, other, table = tasks(args), Other(args.seconds), study(args.out)
    try:
        if args.only:
            for number, kind, given in (task for task in every if task[0] in args.only):
                print(f"{number} {kind}: {' '.join(other.ask(kind, given))}\n{json.dumps(given)}", flush=True)
            return
        done = {int(row["block"]) for row in table.rows()}
        for block in sorted(set(range(-(-len(every) // BLOCK))) - done):
            part = every[block * BLOCK : (block + 1) * BLOCK]
            ended = [(number, kind, *other.ask(kind, given)) for number, kind, given in part]
            table.add(counted(block, ended))
            for number, kind, outcome, says in ended:
                if outcome in FAILURES:
                    print(f"{number} {kind}: {outcome} {says}", flush=True)
    finally:
        other.close()
    print(args.out)


if __name__ == "__main__":
    exiting(main, "fuzz")
