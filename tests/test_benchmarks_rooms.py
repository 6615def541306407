"""The rooms of the benchmarks: arrows point down, a module has one name in code, and every old command still runs."""

import ast
import importlib
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(benchmarks.__file__).parent
MAY = {room: {room, "common"} for room in benchmarks.ROOMS} | {"paper": {"paper", "common", "images"}}
FILES = sorted(path for room in benchmarks.ROOMS for path in (ROOT / room).glob("*.py"))
COMMANDS = (  # python -m benchmarks.<name>, as it always was
    *("acceptance", "adapters", "backbones", "capacity", "compactness", "conditions", "conv", "defaults"),
    *("features", "feynman"),
    *(
        "beside_deepxde",
        "choice",
        "crashes",
        "domains",
        "fuzz",
        "ladder",
        "library",
        "long_runs",
        "precision",
        "race",
        "second_order",
        "slabs",
        "solution_formulas",
        "systems",
        "yardsticks",
    ),
    *("feynman_ranges", "figures", "gpu", "gradient", "grid_range", "harder", "high_dim", "high_dim_functions"),
    *(
        "images",
        "import_time",
        "inference",
        "jacobians",
        "jets",
        "laplacians",
        "layers",
        "memory",
        "operators",
        "parameter_counts",
        "peers",
        "point_values",
        "prompts",
        "random_jets",
        "pykan_fit",
        "recovery",
        "references",
        "report",
    ),
    *(
        "inverse",
        "mutations",
        "sharded_inputs",
        "stde_jax",
        "structure",
        "starts",
        "table8",
        "unchanged",
        "variants",
        "verification",
        "whole",
        "world_scaling",
    ),
)


def imported(path: Path):
    """What a file imports of the benchmarks: (room, module or None)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "benchmarks"]
            yield from (name.split(".")[1:3] for name in names if name != "benchmarks")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "benchmarks":
            names = node.module.split(".")[1:]
            yield from ([*names, alias.name][:2] for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_arrows_point_down(path):
    assert {room for room, *_ in imported(path)} <= MAY[path.parent.name]


def test_code_names_the_room():
    for path in [*FILES, *Path(__file__).parent.glob("*.py")]:
        for room, *_ in imported(path):
            assert room in benchmarks.ROOMS, f"{path.name} imports benchmarks.{room}"


def test_no_two_rooms_have_a_module_of_the_same_name():
    stems = [path.stem for path in FILES if not path.stem.startswith("__")]
    assert len(stems) == len(set(stems)) and not set(stems) & set(benchmarks.ROOMS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_by_its_name_alone(name, monkeypatch, capsys):
    if name == "stde_jax" and not find_spec("jax"):
        pytest.skip("JAX is not installed")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as info:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert not info.value.code and f"usage: {name}" in capsys.readouterr().out
    files = [m.__file__ for key, m in sys.modules.items() if key.startswith("benchmarks.") and hasattr(m, "__file__")]
    assert len(files) == len(set(files)), "no module is loaded twice"


def test_commands_are_all_there_are():
    """Whatever can be run is a command, and one can be imported by its room as well."""
    runnable = {path.stem for path in FILES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")}
    assert runnable - {"__main__"} == {"dense" if name == "images" else name for name in COMMANDS}
    assert importlib.import_module("benchmarks.speed.memory").main


def test_the_side_in_jax_has_no_torch_beside_it():
    code = "import sys, benchmarks.common.timing; sys.exit('torch' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=False).returncode
    side = ROOT / "speed" / "stde_jax.py"
    assert {tuple(names) for names in imported(side)} == {("common", "timing")} and "kanpde" not in modules(side)


def modules(path: Path) -> set[str]:
    """The packages that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}
