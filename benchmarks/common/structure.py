"""The structure of checkouts, counted: files, floors, arrows, circles, and who asks for types and names of families.

    python -m benchmarks.structure CHECKOUT ... [--out benchmarks/results/structure.md]

Imports are read within functions too, but for those of type checkers. A room is a folder of the package, or a loose
file; an arrow is a room that imports from another; the floor of a room is one above the highest that it imports from; a
circle is a set of modules that import each other. Functions with (config, problem) take two arguments of these names.
Questions: isinstance of `Fitting` or `GaussNewton`, hasattr and getattr of a domain, an operator or a problem, and
comparisons with the name of a member.
"""

import ast
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common.study import Parser, deliver, exiting, markdown
from kanpde.ground.errors import ConfigError

FAMILIES = ("domain", "operator", "problem")
MEMBERS = ("forward", "autograd", "hutchinson", "sdgd", "gauss_newton", "lbfgs", "soap", "rba", "causal")
Graph = dict[str, set[str]]


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from walk(child)


def graph_of(root: Path) -> Graph:
    """The modules of a package, and those of it that each imports."""
    files = {".".join(p.relative_to(root.parent).with_suffix("").parts): p for p in root.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    found: Graph = {}
    for module, path in files.items():
        found[module] = set()
        for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= {name if name in files else node.module for name in names} & files.keys()
            if isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names} & files.keys()
    return {module: below - {module} for module, below in found.items()}


def of_rooms(graph: Graph) -> Graph:
    """The arrows between rooms."""
    room = lambda module: module.split(".")[1] if "." in module else module
    rooms: Graph = {room(module): set() for module in graph}
    for module, below in graph.items():
        rooms[room(module)] |= {room(other) for other in below} - {room(module)}
    return rooms


def circles(graph: Graph) -> list[set[str]]:
    """Sets of modules each of which imports itself by way of the others."""
    reach: Graph = {}
    for start in graph:
        seen, new = set(), set(graph[start])
        while new:
            seen |= new
            new = set().union(*(graph[module] for module in new)) - seen
        reach[start] = seen
    found = {frozenset(m for m in reach[module] if module in reach[m]) for module in graph if module in reach[module]}
    return [set(each) for each in found]


def floors(graph: Graph) -> int:
    """How many floors the rooms have, in a circle as many as it takes once around."""

    def floor(room: str, way: tuple[str, ...] = ()) -> int:
        return 1 + max((floor(below, (*way, room)) for below in graph[room] if below not in way), default=0)

    return max(map(floor, graph))


def asks(path: Path) -> int:
    """How often a file asks for the type of a family, or for a member's name."""
    count = 0
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            first, second = ast.unparse(node.args[0]), ast.unparse(node.args[1])
            of_family = first.split(".")[-1] in FAMILIES
            count += node.func.id in ("hasattr", "getattr") and of_family and isinstance(node.args[1], ast.Constant)
            count += node.func.id == "isinstance" and second in ("Fitting", "GaussNewton")
        if isinstance(node, ast.Compare):
            compared = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            count += bool(compared & set(MEMBERS))
    return count


def counted(checkout: Path) -> dict[str, int]:
    """The figures of a checkout."""
    root, benchmarks = checkout / "kanpde", checkout / "benchmarks"
    files, graph = sorted(root.rglob("*.py")), graph_of(root)
    lines = lambda paths: sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    functions = [n for p in files for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.FunctionDef)]
    takes = lambda f: {"config", "problem"} <= {a.arg for a in (*f.args.args, *f.args.kwonlyargs)}
    rooms = of_rooms(graph)
    return {
        "files of the package": len(files),
        "lines of the package": lines(files),
        "files at the top": len(list(root.glob("*.py"))),
        "rooms": len(rooms),
        "floors of rooms": floors(rooms),
        "arrows between rooms": sum(map(len, rooms.values())),
        "circles of modules": len(circles(graph)),
        "functions with (config, problem)": sum(map(takes, functions)),
        "questions for types and names": sum(map(asks, files)),
        "files of benchmarks": len(list(benchmarks.rglob("*.py"))),
        "lines of benchmarks": lines(benchmarks.rglob("*.py")),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Count, and deliver the table."""
    parser = Parser("structure", __doc__)
    parser.add_argument("checkouts", nargs="+", type=Path)
    args = parser.common().parse_args(argv)
    for checkout in args.checkouts:
        if not (checkout / "kanpde" / "__init__.py").is_file():
            raise ConfigError(f"{checkout}: no checkout of kanpde")
    found = [counted(checkout) for checkout in args.checkouts]
    commit = lambda folder: subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    heading = ("", *(commit(checkout) or checkout.name for checkout in args.checkouts))
    lines = [[name, *(f"{each[name]:,}" for each in found)] for name in found[0]]
    deliver(
        "\n".join(["# Structure", "", "`python -m benchmarks.structure`", "", *markdown(heading, lines), ""]), args.out
    )


if __name__ == "__main__":
    exiting(main, "structure")
