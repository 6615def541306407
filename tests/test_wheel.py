"""The wheel, in an environment that has not the checkout: it solves from another folder, with what it ships."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True, timeout=300)
    (wheel,) = folder.glob("kanpde-*.whl")
    venv.create(folder / "env", with_pip=False)
    made = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", str(made), "install", "--no-deps", str(wheel)], check=True, timeout=120)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    # the path alone: what an editable installation lists there is not read
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    return made


def run(words: list, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_solves_from_another_folder(python, tmp_path):
    where = run([python, "-c", "import kanpde; print(kanpde.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(python.parent.parent)
    few = ["--steps", "2", "--set", "points.test=100", "--no-verify", "--out", "run.h5"]
    assert "run.h5" in run([python, "-m", "kanpde.solve", "burgers", *few], tmp_path)
    assert (tmp_path / "run.h5").is_file() and (tmp_path / "run.pt").is_file()
    assert "allen_cahn" in run([python.with_name("kanpde"), "list"], tmp_path)
    shipped = "from importlib.resources import files; print((files('kanpde') / 'py.typed').is_file())"
    assert run([python, "-c", shipped], tmp_path).strip() == "True"
