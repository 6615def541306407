"""The benchmark of the time to start, and what importing kanpde loads."""

import subprocess
import sys

import pytest

from benchmarks.speed import import_time
from kanpde.ground.errors import ConfigError

HEAVY = (  # loaded where they are used: each takes a tenth of a second to two
    "torch._dynamo",
    "torch._inductor",
    "matplotlib",
    "networkx",
    "pandas",
    "pytorch_optimizer",
    "pyvista",
    "rich",
    "scipy",
    "setuptools",
    "sympy",
    "typer",
    "vtk",
    "vtkmodules",
)


def test_importing_kanpde_loads_nothing_heavy_but_torch():
    code = f"import sys, torch; own = set(sys.modules); import kanpde; print(*({{*{HEAVY}}} & {{*sys.modules}} - own))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_table_has_a_line_for_each_side(tmp_path, monkeypatch, capsys):
    times = iter([9.0, 9.0, 1.0, 1.5])  # the first of each does not count
    monkeypatch.setattr(import_time, "seconds", lambda arguments: next(times))
    import_time.main(["--quick", "--out", str(tmp_path / "import_time.md")])
    text = (tmp_path / "import_time.md").read_text()
    assert text == capsys.readouterr().out
    assert "| `import kanpde` | 1.50 | 1.50 | 1.50 | 1.50 |" in text and "processes, 1 of each" in text


def test_a_side_is_a_process_and_fails_with_it():
    assert import_time.seconds(["-c", "pass"]) > 0
    with pytest.raises(subprocess.CalledProcessError):
        import_time.seconds(["-c", "raise SystemExit(3)"])


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="--repeats must be at least 1, given 0"):
        import_time.main(["--repeats", "0"])
