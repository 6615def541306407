"""Imports point down, public things are documented, and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "kanpde"
LEVELS = [  # a module imports from its own line or the lines above it
    {"claims", "config", "metrics", "reading", "record", "session", "streams", "gram", "jet", "optim"},
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
    for path in (ROOT / "kan").rglob("*.py"):
        assert {m.split(".")[0] for m in imports(path)} <= {"kan", "jet", "gram", "streams"}, "kan knows no PDE"
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
