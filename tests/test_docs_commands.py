"""The commands of the documents, run from the wheel: each page in a folder of its own, one command after the other.

Trainings are made short by options and numbers that stand in the place of others; nothing else is changed. A command
that is neither run nor among those that are left fails.
"""

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_docs import DOCS, ROOT, blocks, shell

LEFT = {  # beginnings and parts of commands that are not run here
    "python3 -m venv": "an installation, as that of the wheel here",
    ".venv/bin/pip install": "an installation, as that of the wheel here",
    "source ": "an installation, as that of the wheel here",
    ".venv/bin/python -m pytest": "all tests",
    "python -m benchmarks.": "of a checkout, which the wheel has not; tests/test_benchmarks_*.py",
    "export KANPDE_DATA": "data sets that are not shipped",
    "torchrun --nnodes": "two machines",
    "export RAY_AUTH_MODE": "a cluster",
    "ray start": "a cluster",
    "--engine ray": "a cluster; tests/test_sweeps.py starts Ray on this machine",
    "...": "words are left out",
    "kanpde solve --dry-run": "words are left out",
    "PROBLEM": "stands for names",
    "NAME": "stands for names",
    "DIR": "stands for names",
}
EXTRAS = {"--log mlflow": "mlflow", "--log tensorboard": "tensorboard", "onnx": "onnxscript", "kanpde tune": "optuna"}
SHORTER = {  # what stands in the place of numbers that make runs long, and of the names of programs
    ".venv/bin/python": "python",
    "torchrun": "python -m torch.distributed.run",
    "--nproc-per-node 4": "--nproc-per-node 2",
    "--dim 1000000": "--dim 100",
    "--dim 100000": "--dim 100",
    "run.h5 --steps 9000": "longer.h5 --steps 4",  # an extended run is not repeated bit for bit, which run.h5 is to be
    "--steps 300": "--steps 2",
    "problem.dim=20,50,100": "problem.dim=5,10",
    "seed=0..4": "seed=0..1",
    "--search 60": "--search 2",
}
TRAINING = "--steps 2 --set points.test=200 --set points.interior=60 --set slices.points=9"
QUICK = {  # options behind a command, by its name
    "solve": TRAINING,
    "sweep": TRAINING,
    "tune": f"{TRAINING} --trials 2",
    "folds": "--steps 2",
    "verify": "--seconds 1",
    "explain": "--seconds 5",
    "recover": "--seconds 5",
}
OWN = {  # rather than those, of commands with these words
    "resume": "--steps 4",
    "correct run.h5 --at": "--seconds 1",
    "correct": TRAINING,
    "shard=inputs": "--steps 2",  # which has no slices
    "slabs=4": TRAINING.replace("--steps 2", "--steps 16"),  # some for each phase of each slab
}

RUN = "kanpde solve poisson --dim 3 --backbone kan --out run.h5"
FIT = "kanpde solve data --set problem.file=measured.csv --set backbone.widths=[1] --out fit.h5"
PAIRS = "kanpde solve poisson_pairs --dim 2 --out pde.h5"
POINTS = "x1,x2,x3\n0.1,0.2,0.3\n-0.4,0.5,0.0\n"
TABLE = "pressure,temperature,density\n" + "".join(
    f"{i / 40},{i % 7},{(1 + i / 40) / (3 + i % 7)}\n" for i in range(200)
)
GIVEN = {  # what the reader of a page has: files, and what commands make
    "README": {
        "problems": ROOT / "problems",
        "run.h5": RUN,
        "longer.h5": RUN.replace("run.h5", "longer.h5"),
        "measured.csv": TABLE,
        "measurements.csv": TABLE,
        "new.csv": TABLE,
        "fit.h5": FIT,
        "pde.h5": PAIRS,
        "my_file.py": ROOT / "examples/my_members.py",
        "my_pde.py": ROOT / "examples/my_pde.py",
    },
    "coming_from": {"run.h5": RUN},
    "export": {"run.h5": RUN},
    "faq": {"run.h5": RUN},
    "fitting": {"measured.csv": TABLE},
    "index": {"problems": ROOT / "problems"},
    "members": {"my_file.py": ROOT / "examples/my_members.py"},
    "problems": {"burgers.py": blocks("problems")[0], "burgers.yaml": blocks("problems", "yaml")[0]},
    "reliability": {"run.h5": RUN},
    "report": {"run.h5": RUN, "runs/a.h5": RUN.replace("run.h5", "runs/a.h5")},
    "results": {"run.h5": RUN, "rows.csv": POINTS},
    "start": {
        "plate.py": blocks("start")[0],
        "plate.yaml": blocks("start", "yaml")[0],
        "points.csv": "x,y\n0.0,-0.5\n-0.6,0.6\n",
    },
    "verification": {"run.h5": RUN, "points.csv": POINTS},
}
PAGES = {path.stem: shell(path.read_text()) for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}


def left(command: str) -> str | None:
    """Why a command is not run, or None."""
    missing = {part: f"{name} is not installed" for part, name in EXTRAS.items() if find_spec(name) is None}
    return next((why for part, why in (LEFT | missing).items() if part in command), None)


def quick(command: str) -> str:
    """The command with what makes it short."""
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    name = re.search(r"kanpde[. ](\w+)", command)[1]
    more = next((more for words, more in OWN.items() if words in command), QUICK.get(name, ""))
    return f"{command} {more}".strip()


def run(command: str, folder: Path, python: Path) -> None:
    """Run a command in a folder, with the programs of the environment of this interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{python.parent}{os.pathsep}{environment['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr, f"{command}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, commands in PAGES.items() if not all(map(left, commands))])
def test_every_command_of_a_page_runs(page, wheel, tmp_path):
    for name, what in GIVEN.get(page, {}).items():
        if isinstance(what, Path):
            (tmp_path / name).symlink_to(what)
        elif what.startswith("kanpde "):
            run(quick(what), tmp_path, wheel)
        else:
            (tmp_path / name).write_text(what)
    for command in PAGES[page]:
        if not left(command):
            run(quick(command), tmp_path, wheel)


def test_commands_are_of_this_package_or_left_with_a_reason():
    commands = [command for page in PAGES.values() for command in page]
    ours = re.compile(r"(?:kanpde|(?:\.venv/bin/)?python -m kanpde\.solve|torchrun .*-m kanpde\.solve) ")
    for command in commands:
        assert left(command) or ours.match(command), command
    for part in (*LEFT, *EXTRAS, *SHORTER):
        assert any(part in command for command in commands), f"{part}: no page has it"
    assert set(GIVEN) <= set(PAGES)
