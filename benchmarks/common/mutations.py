"""Whether the tests notice what is broken: random mutations of the source, in this checkout and in a former one.

    python -m benchmarks.mutations --before CHECKOUT [--count 40] [--seed 0] [--out benchmarks/results/mutations.md]

A mutation changes one comparison, operation, constant, `not` or `and` of a function in jets/, kan/ or training/, drawn
at random among those whose line both checkouts have in a function of the same name. The tests of the mutated rooms
(`TESTS`, those of both checkouts that there are, and the doctests) run in a copy of the checkout up to the first
failure, those that name the module first; the other tests, which might catch more, do not. A mutation is caught too if
the tests do not end. What these tests catch is not tried with the former ones.
"""

import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, Row, Study, at_least, exiting, markdown
from kanpde.ground.errors import ConfigError

HERE = Path(__file__).resolve().parents[2]
ROOMS = ("jets", "kan", "training")
TESTS = (
    "oracle", "taylor", "kan", "bases", "values", "operators", "losses", "weighting", "stochastic", "transforms",
    "grids", "start", "plan", "selection", "conditions", "statements", "cuts", "memory", "fused", "training",
)  # fmt: skip
LIMIT = 5400  # seconds of a run of the tests
COLUMNS = ("number", "path", "function", "was", "becomes", "here", "before")
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


class Mutation(NamedTuple):
    """One change: where it is in each checkout, and the line before and after."""

    path: str
    function: str
    line: int
    was: str
    becomes: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.function, self.was, self.becomes


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of an expression."""
    other = copy.copy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other.ops = [OTHER[type(node.ops[0])]()]
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OTHER:
        other.op = OTHER[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        other = node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        other.value = node.value + 1
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        other.value = not node.value
    else:
        return
    yield other


def mutations(root: Path, file: Path) -> Iterator[Mutation]:
    """All mutations of a file that stay within a line, outside of annotations, f-strings and messages."""
    text = file.read_bytes()
    lines = text.splitlines()  # bytes, as which ast counts columns

    def below(node: ast.AST, function: str) -> Iterator[Mutation]:
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or name in ("annotation", "returns", "decorator_list"):
                    continue
                if isinstance(child, ast.JoinedStr | ast.Raise):
                    continue
                named = isinstance(child, ast.FunctionDef | ast.ClassDef)
                inner = f"{function}.{child.name}".lstrip(".") if named else function
                if function and isinstance(child, ast.expr) and child.lineno == child.end_lineno:
                    line = lines[child.lineno - 1]
                    left, right = line[: child.col_offset].decode(), line[child.end_col_offset :].decode()
                    for other in changes(child):
                        new = f"{left}({ast.unparse(other)}){right}".strip()
                        place = str(file.relative_to(root))
                        yield Mutation(place, function, child.lineno, line.decode().strip(), new)
                yield from below(child, inner)

    yield from below(ast.parse(text), "")


def all_of(root: Path) -> list[Mutation]:
    """The mutations of a checkout, where the rooms of today may still be files."""
    files = sorted((root / "kanpde").rglob("*.py"))
    return [mutation for file in files for mutation in mutations(root, file)]


def drawn(before: Path, count: int, seed: int) -> list[tuple[Mutation, Mutation]]:
    """(before, here) of mutations of the rooms that both checkouts have, once in each."""
    theirs: dict[tuple, list[Mutation]] = {}
    for mutation in all_of(before):
        theirs.setdefault(mutation.key, []).append(mutation)
    own = [m for m in all_of(HERE) if Path(m.path).parts[1] in ROOMS]
    keys = [m.key for m in own]
    both = [(theirs[m.key][0], m) for m in own if len(theirs.get(m.key, ())) == 1 and keys.count(m.key) == 1]
    return random.Random(seed).sample(both, min(count, len(both)))


def caught(checkout: Path, mutation: Mutation) -> str:
    """The test of a checkout that fails by a mutation; empty: none."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "copy"
        shutil.copytree(checkout, copied, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache"))
        file = copied / mutation.path
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        indent = lines[mutation.line - 1][: -len(lines[mutation.line - 1].lstrip())]
        lines[mutation.line - 1] = indent + mutation.becomes + "\n"
        file.write_text("".join(lines), encoding="utf-8")
        paths = [copied / f"tests/test_{name}.py" for name in TESTS]
        module = Path(mutation.path).with_suffix("").name
        names = lambda path: re.search(rf"\b{module}\b", path.stem + path.read_text(encoding="utf-8")) is not None
        nearest = sorted((path for path in paths if path.is_file()), key=names, reverse=True)
        tests = [str(path.relative_to(copied)) for path in nearest] + ["kanpde"]
        environment = {**os.environ, "PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-n", "2"]
        command += ["--dist", "load", *tests]  # in the order given
        try:
            done = subprocess.run(
                command, cwd=copied, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return "no end"
    if done.returncode == 0:
        return ""
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed:
        raise ConfigError(f"the tests of {checkout} do not run: {done.stdout[-300:]}{done.stderr[-300:]}")
    return failed[0].split(" ", 1)[1]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("mutations", __doc__)
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.common(out=Path("benchmarks/results/mutations.md")).parse_args(argv)
    if not (args.before / "kanpde").is_dir():
        raise ConfigError(f"--before must be a checkout of kanpde, given {args.before}")
    at_least(args, {"count": 1})
    tasks = {n: (n, args.before, *pair) for n, pair in enumerate(drawn(args.before, args.count, args.seed))}
    study = Study(args.out, COLUMNS, report, lambda row: int(row["number"]), lambda row: int(row["number"]))
    study.run(tried, tasks, 1, lambda task, rows: f"{task[0]}: {rows[0]['here'] or 'not caught'}", threads=None)


def tried(task: tuple[int, Path, Mutation, Mutation]) -> list[Row]:
    """The row of a mutation: the test that fails here, else the one that failed before."""
    number, checkout, before, here = task
    found = caught(HERE, here)
    was = "" if found else caught(checkout, before)
    return [dict(zip(COLUMNS, (number, here.path, here.function, here.was, here.becomes, found, was), strict=True))]


def report(rows: Sequence[Row]) -> str:
    """Markdown: how many are caught, and those that are not."""
    missed = [row for row in rows if not row["here"]]
    only = sum(bool(row["before"]) for row in missed)
    heading = ("where", "was", "becomes", "caught before by")
    code = lambda text: f"`{text}`".replace("|", "\\|")
    lines = [(f"{r['path']} {r['function']}", code(r["was"]), code(r["becomes"]), r["before"] or "-") for r in missed]
    return "\n".join(
        [
            "# Mutations that the tests catch",
            "",
            f"Written by `python -m benchmarks.mutations` on {machine('cpu')}. Of {len(rows)} random mutations in",
            f"{', '.join(f'{room}/' for room in ROOMS)} the tests catch {len(rows) - len(missed)}; of the other",
            f"{len(missed)} those of the former checkout caught {only}.",
            "",
            *markdown(heading, lines, "l"),
            "",
        ]
    )


if __name__ == "__main__":
    exiting(main, "mutations")
