"""Imports point down, public things are documented, and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "kanpde"
LEVELS = [  # a module imports from its own line or the lines above it
    {"claims", "config", "metrics", "reading", "record", "session", "streams", "gram", "tracing", "jet", "optim"},
    {"differentiable"},
    {"construct", "ansatz", "samplers", "columns", "formulas", "user_modules"},
    {"domains", "kan", "operators", "equations"},
    {"problems", "backbones", "weighting", "interpret", "similarity", "start", "user_code"},
    {"frames"},
    {"losses"},
    {"setup", "cuts", "evaluation", "summary", "optimisers", "testing"},
    {"checkpoints", "checks", "memory", "statements"},
    {"objective"},
    {"training"},
    {"api"},
    {"plot", "compare", "predict", "folds", "explain", "search"},
    {"solve", "cli", "__main__"},
]
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def level(module: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if module.split(".")[0] in names)


def module_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")


def imports(path: Path):
    """Modules of kanpde imported at the top level of a file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kanpde":
            inner = node.module.removeprefix("kanpde").lstrip(".")
            yield from [inner] if inner else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path):
    for module in imports(path):
        assert level(module) <= level(module_of(path)), f"{module_of(path)} imports {module}"


def test_arrows_of_the_design_that_levels_do_not_show():
    known = {"kan", "jet", "gram", "streams", "tracing"}
    for path in (ROOT / "kan").rglob("*.py"):
        assert {m.split(".")[0] for m in imports(path)} <= known, "kan knows no PDE"
    for path in [*(ROOT / "plot").rglob("*.py"), ROOT / "compare.py"]:
        assert {m.split(".")[0] for m in imports(path)} <= {"plot", "record"}, "plot knows no model"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_public_names_are_documented_and_functions_small(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            simple = isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno < 6
            assert simple or ast.get_docstring(node), f"{node.name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node) or ""
            lines = node.end_lineno - node.lineno - len(documented.splitlines())
            assert lines <= 50, f"{node.name} has {lines} lines"
    assert len(path.read_text().splitlines()) <= 600


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
    assert (found != set()) == (module_of(path) == "tracing"), found


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
