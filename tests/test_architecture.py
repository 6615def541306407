"""Rooms on floors, imports that point down, nothing that a module imports imports it, documented public names."""

import ast
from functools import cache
from pathlib import Path
from statistics import median

import pytest

REPOSITORY = Path(__file__).parent.parent
ROOT, BENCHMARKS = REPOSITORY / "kanpde", REPOSITORY / "benchmarks"
FLOORS = [  # a room imports from the floors above its own line; its modules may import each other
    {"ground"},
    {"config", "jets", "records"},
    {"kan", "domains", "loggers", "operators", "plot"},
    {"adapters", "backbones", "optim", "problems"},
    {"users", "interpret", "testing", "verification"},
    {"training", "proof"},
    {"runs", "recover"},
    {"doctor", "explain", "export", "report", "sweeps", "kanpde"},
    {"command line"},
]
LOOSE = {"solve", "cli", "__main__"}  # one room, the command line; __init__ is kanpde itself
FILES = sorted(ROOT.rglob("*.py"))
ALL = [*FILES, *sorted(p for p in BENCHMARKS.rglob("*.py") if p.parent != BENCHMARKS)]


def module_of(path: Path) -> str:
    """kanpde.kan.layers of its file; of a folder's __init__ the folder."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in ALL}


def room_of(module: str) -> str:
    """Of kanpde a folder, or loose files together; of benchmarks a folder."""
    package, *inner = module.split(".")
    room = inner[0] if inner else package
    return "command line" if package == "kanpde" and room in LOOSE else room


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def walk(node: ast.AST):
    """All nodes but those of blocks that only type checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not is_for_types(child):
            yield from walk(child)


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules of this repository that a file imports, within functions too."""
    found: set[str] = set()
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return frozenset(module for module in found if module in MODULES)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path):
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    room = room_of(module_of(path))
    for module in imports(path):
        below = room_of(module)
        assert below == room or floor[below] < floor[room], f"{module_of(path)} ({room}) imports {module} ({below})"


def test_the_rooms_are_those_of_the_floors_and_few_files_are_loose():
    assert {room_of(module_of(path)) for path in FILES} == set().union(*FLOORS)
    assert len(FLOORS) <= 9
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "doctor", "testing", *LOOSE}


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' imports '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for below in graph[module]:
                visit(below, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_arrows_of_the_design_that_floors_do_not_show():
    of = lambda room: {room_of(m) for path in (ROOT / room).rglob("*.py") for m in imports(path)}
    assert of("kan") <= {"kan", "jets"}, "kan knows no PDE"
    assert of("plot") <= {"plot", "records"}, "plot knows no model"
    assert of("jets") <= {"jets", "ground"} and of("domains") <= {"domains", "jets", "ground"}


@pytest.mark.parametrize("path", ALL, ids=module_of)
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            simple = isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno < 6
            assert simple or ast.get_docstring(node), f"{node.name} has no docstring"


def test_functions_are_small_by_their_median():
    sizes = [
        node.end_lineno - node.lineno - len((ast.get_docstring(node) or "").splitlines())
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert median(sizes) <= 6 and sorted(sizes)[int(0.99 * len(sizes))] <= 40


def of_torch(tree: ast.Module) -> set[str]:
    """The names in a file that are torch, or come from it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names if a.name.split(".")[0] == "torch"}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names |= {a.asname or a.name for a in node.names}
    return names


# public, but each of them alone is half the answer to who looks on, or loads the compiler
HALF = {"torch.compiler.is_compiling", "torch.compiler.is_exporting", "torch.jit.is_tracing", "torch.compiler.disable"}


def is_private(name: str) -> bool:
    return name in HALF or any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_corners(tree: ast.Module):
    """What a file reads or imports of torch that torch calls private, and who-looks-on of HALF."""
    names = of_torch(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("torch.") and is_private(a.name))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            yield from (f"{node.module}.{a.name}" for a in node.names if is_private(f"{node.module}.{a.name}"))
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.split(".")[0] in names and text.replace(".", "").isidentifier() and is_private(text):
                yield text


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_private_corners_of_torch_are_known_to_one_module(path):
    found = set(private_corners(ast.parse(path.read_text())))
    assert (found != set()) == (module_of(path) == "kanpde.jets.tracing"), found


def test_private_corners_are_seen_however_they_are_written():
    for text in (
        "import torch\nx = torch._C._are_functorch_transforms_active()",
        "import torch._functorch.config",
        "import torch as t\nt.compiler._is()",
        "import torch\nx = torch.compiler.is_compiling()",
        "from torch._dynamo import config",
        "from torch import _C",
        "from torch.autograd import forward_ad\nforward_ad._current_level",
    ):
        assert list(private_corners(ast.parse(text))), text
    assert not list(private_corners(ast.parse("import torch\ntorch.__version__\ntorch.nn.Linear\nself._torch._x")))
