"""The wheel, in an environment that has not the checkout: it solves from another folder, with what it ships."""

import os
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(words: list, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ENDS = {
    "oldest": ("torch==2.6.0", "numpy==1.26.4"),
    "newest": ("torch==2.13.0", "numpy"),
}  # of what pyproject.toml allows


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_the_ends_of_the_supported_versions_solve(end, tmp_path):
    """With no package of this environment; minutes of downloads."""
    venv.create(tmp_path / "env", with_pip=True)
    made = tmp_path / "env" / "bin" / "python"
    pip = [str(made), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    subprocess.run([*pip, str(ROOT), *ENDS[end]], check=True, timeout=1800)
    versions = "import numpy, torch; print(torch.__version__.partition('+')[0], numpy.__version__)"
    found = run([made, "-c", versions], tmp_path).split()
    asked = [pin.partition("==")[2] for pin in ENDS[end]]
    assert all(version == wanted or not wanted for version, wanted in zip(found, asked, strict=True))
    assert "failed" not in run([made.with_name("kanpde"), "doctor"], tmp_path)
    few = ["--set", "points.test=100", "--no-verify", "--quiet"]
    for problem, steps in (("helmholtz", 10), ("stokes", 5), ("poisson", 5)):
        run([made, "-m", "kanpde.solve", problem, *few, "--steps", steps, "--out", f"{problem}.h5"], tmp_path)
        run([made.with_name("kanpde"), "compare", f"{problem}.h5"], tmp_path)


def test_the_wheel_solves_from_another_folder(wheel, tmp_path):
    where = run([wheel, "-c", "import kanpde; print(kanpde.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(wheel.parent.parent)
    few = ["--steps", "2", "--set", "points.test=100", "--no-verify", "--out", "run.h5"]
    assert "run.h5" in run([wheel, "-m", "kanpde.solve", "burgers", *few], tmp_path)
    assert (tmp_path / "run.h5").is_file() and (tmp_path / "run.pt").is_file()
    assert "allen_cahn" in run([wheel.with_name("kanpde"), "list"], tmp_path)
    shipped = "from importlib.resources import files; print((files('kanpde') / 'py.typed').is_file())"
    assert run([wheel, "-c", shipped], tmp_path).strip() == "True"
