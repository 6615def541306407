"""The command line, as a user calls it."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import combinations, product
from pathlib import Path

import pytest
from conftest import OF_DERIVATIVES
from matplotlib.figure import Figure

from kanpde import Run, cli, config, plot, solve
from kanpde.problems import FITS, LOW_DIM
from kanpde.users import listing

ROOT = Path(__file__).parent.parent
TINY = ["--set", "points.interior=10", "--set", "points.test=300", "--set", "points.validation=50"]
TINY += ["--set", "evaluation.every=2", "--set", "slices.points=5", "--set", "slices.volume=0"]

MEMBERS = [sorted(p.stem for p in config.library(kind).glob("*.yaml")) for kind in ("problems", "solvers")]
PROBLEMS = [name for name in MEMBERS[0] if name not in LOW_DIM]  # those are in test_library
BACKBONES = ["mlp", "kan", "metakan"]
SOLVERS = sorted(MEMBERS[1], key=lambda name: name in OF_DERIVATIVES)  # those of fits, which read none, come first
RUNS = [r for r in product(PROBLEMS, BACKBONES, SOLVERS) if not (r[0] in FITS and r[2] in OF_DERIVATIVES)]
PAIRS = [r for r in RUNS if (PROBLEMS.index(r[0]) + SOLVERS.index(r[2])) % 3 == BACKBONES.index(r[1])]
CASES = [pytest.param(*r, marks=[] if r in PAIRS else [pytest.mark.slow]) for r in RUNS]


def call(capsys, main, *args):
    """(exit code, standard output, standard error) of a command."""
    argv, sys.argv = sys.argv, ["kanpde", *map(str, args)]
    try:
        with pytest.raises(SystemExit) as info:
            main()
    finally:
        sys.argv = argv
    captured = capsys.readouterr()
    return info.value.code or 0, captured.out, captured.err


def run(capsys, *args):
    return call(capsys, solve.main, *args)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A folder to work in, with the pictures of its runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(drawn, no_pictures):
    return drawn


@pytest.mark.parametrize("problem, backbone, solver", CASES)
def test_every_problem_backbone_and_solver_runs(capsys, drawn, monkeypatch, problem, backbone, solver):
    """By default every pair of them, which `test_pairs_are_all_there` counts; every triple among the slow tests."""
    if solver != "adam":  # pictures of every problem with one solver
        monkeypatch.setattr(plot, "main_pictures", lambda *_, **__: [])
    Path("data.csv").write_text("a,b\n" + "".join(f"{i},{i % 3}\n" for i in range(20)))
    sets = [*TINY, "--set", "backbone.widths=[4]"]
    if solver == "paper" and problem not in FITS:
        sets += ["--set", "points.boundary=10"]
        sets += ["--set", "points.initial=10"] if problem in ("heat", "hjb") else []
    dim = [] if problem in FITS else ["--dim", 4]
    code, out, err = run(
        capsys, problem, *dim, "--backbone", backbone, "--solver", solver, "--steps", 2, "--quiet", *sets
    )
    judged = "kept (step ", "the run ended worse than it began"  # two steps on few points
    assert (code, out) == (0, ""), err
    assert all(line.removeprefix("kanpde: ").startswith(judged) for line in err.splitlines()), err
    (result,) = Path("runs").glob("*.h5")
    assert Run.open(result).attrs["status"] == "finished"


def test_pairs_are_all_there():
    """Whatever two members meet in some run meet in one of the default runs."""
    met = lambda runs: {pair for run in runs for pair in combinations(run, 2)}
    assert met(PAIRS) == met(RUNS) and 3 * len(PAIRS) == len(RUNS)


def test_a_run_says_what_it_does_and_leaves_its_files(capsys, drawn):
    code, out, _ = run(capsys, "allen_cahn", "--dim", 5, "--steps", 6, "--backbone", "metakan", *TINY, "--out", "a.h5")
    assert code == 0
    for words in (
        "allen_cahn, d = 5",
        "metakan, 3,657 parameters",
        "step 6/6",
        "rel l2",
        "steps/s",
        "floor: constant",
        "skill",
    ):
        assert words in out, words
    assert {p.name for p in drawn.iterdir()} == {"a.h5", "a.pt", "a-convergence.png", "a-error.png"}


def test_dry_run_prints_and_leaves_nothing(capsys, folder):
    code, out, _ = run(capsys, "allen_cahn", "--dim", 100, "--dry-run")
    assert code == 0 and "6,697" in out and "estimated memory" in out and "interior: 100" in out
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "args, says",
    [
        (["--dim", 100], "32 units of the first hidden layer hold interactions of 100 inputs in at most 32 directions"),
        (["--dim", 100], "--set backbone.widths=wide: 96"),
        (["--dim", 33, "--set", "backbone.widths=paper"], "of 33 inputs in at most 32 directions"),
        (["--dim", 130, "--backbone", "mlp"], "128 units of the first hidden layer hold interactions of 130 inputs"),
    ],
)
def test_a_first_hidden_layer_that_is_narrower_than_the_inputs_is_announced(capsys, folder, args, says):
    code, out, _ = run(capsys, "poisson", *args, "--dry-run")
    (line,) = [line for line in out.splitlines() if line.startswith("width ")]
    assert code == 0 and says in line and ("widths=wide" in line) == ("mlp" not in args)


@pytest.mark.parametrize(
    "args",
    [
        ["poisson", "--dim", 32],
        ["poisson", "--dim", 90, "--set", "backbone.widths=wide"],
        ["poisson", "--dim", 100, "--set", "backbone.widths=[]"],
        ["function", "--set", "backbone.widths=[1]"],  # of a fit the structure is meant
    ],
)
def test_nothing_is_announced_where_nothing_is_lost(capsys, folder, args):
    code, out, _ = run(capsys, *args, "--dry-run")
    assert code == 0 and not any(line.startswith("width ") for line in out.splitlines())


def test_prompts_of_low_rank_take_less_memory(capsys, folder):
    """Two numbers for each input and unit, and their optimiser, by --dry-run."""
    wide = ["poisson", "--dim", 100, "--set", "backbone.widths=wide", "--dry-run"]
    said = [run(capsys, *wide, *more)[1] for more in ([], ["--set", "backbone.prompt_rank=2"])]
    assert "parameters 15,145\n" in said[0] and "parameters 2,225\n" in said[1]
    assert "0.3 MB parameters and optimiser" in said[0] and "0.0 MB parameters and optimiser" in said[1]


def test_quiet_prints_nothing(capsys, folder):
    assert run(capsys, "poisson", "--dim", 3, "--steps", 2, "--quiet", *TINY) == (0, "", "")


def test_flags_reach_the_configuration(capsys, folder):
    run(
        capsys,
        "poisson",
        "--dim",
        3,
        "--steps",
        2,
        "--seed",
        5,
        "--dtype",
        "float64",
        "--quiet",
        *TINY,
        "--out",
        "f.h5",
    )
    stored = Run.open("f.h5").config
    assert (stored["seed"], stored["dtype"], stored["problem"]["dim"]) == (5, "float64", 3)
    assert sum(phase["steps"] for phase in stored["phases"]) == 2


def test_a_result_is_never_overwritten(capsys, folder):
    for _ in range(2):
        assert run(capsys, "poisson", "--dim", 3, "--steps", 1, "--quiet", *TINY)[0] == 0
    assert len(list(Path("runs").glob("*.h5"))) == 2
    run(capsys, "poisson", "--dim", 3, "--steps", 1, "--quiet", *TINY, "--out", "x.h5")
    before = Path("x.h5").read_bytes()
    code, _, err = run(capsys, "poisson", "--dim", 3, "--steps", 1, *TINY, "--out", "x.h5")
    assert code == 2 and "exists" in err and Path("x.h5").read_bytes() == before


BAD_CALLS = {
    "no problem": ([], "give a problem"),
    "unknown file": (["allen_can"], "allen_cahn"),
    "missing yaml": (["nothing.yaml"], "no such file"),
    "unknown backbone": (["poisson", "--backbone", "metakna"], "metakan"),
    "unknown solver": (["poisson", "--solver", "papr"], "paper"),
    "dim 1": (["poisson", "--dim", "1"], "dim must be"),
    "dim not a number": (["poisson", "--dim", "many"], "many"),
    "dim negative": (["poisson", "--dim", "-3"], "dim"),
    "no steps": (["poisson", "--steps", "0"], "steps"),
    "unknown option": (["poisson", "--dmi", "3"], "--dmi"),
    "device": (["poisson", "--device", "cuda:77"], "cpu"),
    "device unknown": (["poisson", "--device", "abacus"], "cpu"),
    "dtype": (["poisson", "--dtype", "float8"], "float32"),
    "out without h5": (["poisson", "--out", "x.txt"], ".h5"),
    "out is a folder": (["poisson", "--out", "."], "folder"),
    "out in a file": (["poisson", "--out", "file/x.h5"], "folder"),
    "resume nothing": (["--resume", "none.h5"], "no such file"),
    "resume broken": (["--resume", "broken.h5"], "HDF5"),
    "bad set": (["poisson", "--set", "points.interor=3"], "interior"),
    "estimates of a fit": (["function", "--set", "operator=hutchinson"], "a fit has no derivatives to estimate"),
    "memory": (["poisson", "--max-memory", "1MB", "--dry-run"], "max_memory"),
    "no text": (["poisson", "--set", "problem=latin.py:Mine"], "latin.py cannot be read"),
    "no domain": (["bare.yaml"], "Bare states no domain"),
    "rank 0": (["poisson", "--set", "backbone.prompt_rank=0"], "prompt_rank: given 0"),
    "rank without prompts": (["poisson", "--backbone", "kan", "--set", "backbone.prompt_rank=2"], "prompt_rank"),
    "widths of no name": (["poisson", "--set", "backbone.widths=pape"], "did you mean paper?"),
}


@pytest.mark.parametrize("case", BAD_CALLS, ids=list(BAD_CALLS))
def test_bad_calls_are_one_line_and_exit_2(capsys, folder, case):
    Path("file").write_text("")
    Path("broken.h5").write_text("not HDF5")
    Path("latin.py").write_bytes(b"# \xe9\n")
    Path("bare.py").write_text("from kanpde import Problem\n\n\nclass Bare(Problem):\n    pass\n")
    Path("bare.yaml").write_text("problem: {name: 'bare.py:Bare', dim: 3}\nbackbone: kan\n")
    before = {p.name for p in folder.iterdir()}
    args, says = BAD_CALLS[case]
    code, _, err = run(capsys, *args)
    assert code == 2 and says in err and err.count("\n") == 1, err
    assert {p.name for p in folder.iterdir()} == before


def test_resume_agrees_or_says_what_differs(capsys, folder):
    run(capsys, "poisson", "--dim", 3, "--steps", 4, "--quiet", *TINY, "--out", "r.h5")
    Path("other.yaml").write_text("problem: {name: poisson, dim: 9, solution: three_body}\n")
    for args, says in (
        (["--resume", "r.h5", "--dim", 4], "problem.dim"),
        (["--resume", "r.h5", "--steps", 2], "extend"),
        (["heat", "--resume", "r.h5", "--steps", 6], "problem.name"),
        (["other.yaml", "--resume", "r.h5", "--steps", 6], "solution"),
        (["--resume", "r.h5", "--seed", 1], "seed"),
        (["--resume", "r.h5"], "has done its 4 steps"),
        (["--resume", "r.h5", "--out", "q.h5"], "r.h5"),
        (["--resume", "r.h5", "--steps", 6, "--solver", "official"], "given"),
    ):
        code, _, err = run(capsys, *args)
        assert code == 2 and says in err and err.count("\n") == 1, err
    assert run(capsys, "poisson", "--dim", 3, "--resume", "r.h5", "--steps", 6, "--quiet")[0] == 0
    assert Run.open("r.h5").attrs["steps"] == 6
    Path("r.pt").write_bytes(b"broken")
    assert "checkpoint" in run(capsys, "--resume", "r.h5", "--steps", 8)[2]


def test_ctrl_c_ends_cleanly_and_resumes(folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # small tensors, as in `one_thread`
    command = [sys.executable, "-m", "kanpde.solve"]
    args = ["poisson", "--dim", "3", "--out", "c.h5", *TINY]
    process = subprocess.Popen(
        [*command, *args, "--steps", "100000", "--no-compile"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    deadline = time.time() + 120
    while not Path("c.h5").is_file() and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume c.h5" in out and err == ""
    stopped = Run.open("c.h5")
    assert stopped.attrs["status"] == "interrupted"


@pytest.mark.parametrize("args", [["plot", "r.h5"], ["explain", "r.h5"], ["list"]])
def test_ctrl_c_outside_of_training_is_one_line(capsys, folder, monkeypatch, args):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "open", interrupted)
    monkeypatch.setattr(listing, "library", interrupted)
    assert call(capsys, cli.main, *args) == (130, "", "kanpde: interrupted\n")


def test_memory_that_is_not_there_is_one_line(capsys, folder):
    code, _, err = run(capsys, "poisson", "--dim", 10**11, "--backbone", "mlp", "--quiet", *TINY)
    assert code == 1 and "out of memory" in err and err.count("\n") == 1


def test_brackets_are_no_markup(capsys, drawn, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch())  # the names are what is asked for
    Path("d [mm]").mkdir()
    out = Path("d [mm]") / "[/b].h5"
    code, said, err = run(capsys, "poisson", "--dim", 3, "--steps", 2, *TINY, "--out", out)
    assert (code, err) == (0, "") and f"result    {out}\n" in said and "picture   d [mm]/[/b]-error.png\n" in said
    code, said, _ = call(capsys, cli.main, "plot", out)
    assert code == 0 and "d [mm]/[/b]-convergence.png" in said


@pytest.fixture(scope="module")
def process():
    """A process that says which of these libraries `import kanpde` loads, and then is `python -m kanpde list`."""
    code = (
        "import runpy, sys, kanpde; print(sorted({'matplotlib', 'pyvista', 'sklearn', 'scipy'} & set(sys.modules)));"
        "sys.argv = ['kanpde', 'list']; runpy.run_module('kanpde', run_name='__main__', alter_sys=True)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_python_m_kanpde_is_the_console_script(process):
    assert process.returncode == 0 and "metakan" in process.stdout


def test_full_disk_is_exit_code_1(capsys, folder, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "save", full)
    code, _, err = run(capsys, "poisson", "--dim", 3, "--steps", 2, "--quiet", *TINY)
    assert code == 1 and "No space left" in err and err.count("\n") == 1


def test_users_problem_file_is_stored_and_runs_only_when_trusted(capsys, folder):
    yaml = ROOT / "examples" / "my_pde.yaml"
    code, out, err = run(capsys, yaml, "--dim", 3, "--steps", 4, *TINY, "--out", "u.h5")
    assert (code, err) == (0, "") and "Helmholtz" in out
    opened = Run.open("u.h5")
    assert "class Helmholtz" in opened.attrs["problem_source"] and len(opened.attrs["problem_sha256"]) == 64
    with pytest.raises(config.ConfigError, match="trust=True"):
        opened.load_model()
    assert opened.load_model(trust=True).problem.k == 2.0


def test_checkpoint_of_another_run_is_one_line(capsys, folder):
    for name, dim in (("a", 3), ("b", 4)):
        assert run(capsys, "poisson", "--dim", dim, "--steps", 2, "--quiet", *TINY, "--out", f"{name}.h5")[0] == 0
    Path("a.pt").write_bytes(Path("b.pt").read_bytes())
    code, _, err = run(capsys, "--resume", "a.h5", "--steps", 4)
    assert code == 2 and "the checkpoint of another run than a.h5" in err and err.count("\n") == 1
    code, _, err = run(capsys, "poisson", "--dim", 3, "--steps", 2, *TINY, "--set", "start_from=b.h5", "--out", "c.h5")
    assert code == 2 and "does not fit" in err and not Path("c.pt").exists()
    Path("b.pt").write_bytes(b"no weights")
    code, _, err = run(capsys, "poisson", "--dim", 3, "--steps", 2, *TINY, "--set", "start_from=b.h5", "--out", "c.h5")
    assert code == 2 and "not a readable checkpoint" in err


def test_changed_problem_file_is_not_resumed(capsys, folder):
    source = (ROOT / "examples" / "my_pde.py").read_text()
    Path("mine.py").write_text(source)
    Path("mine.yaml").write_text("problem: {name: 'mine.py:Helmholtz', dim: 3}\nbackbone: kan\n")
    assert run(capsys, "mine.yaml", "--steps", 2, "--quiet", *TINY, "--out", "m.h5")[0] == 0
    Path("mine.py").write_text(source.replace("self.k**2", "self.k**3"))
    code, _, err = run(capsys, "--resume", "m.h5", "--steps", 4)
    assert code == 2 and "changed" in err
    Path("mine.py").write_text(source)
    assert run(capsys, "--resume", "m.h5", "--steps", 4, "--quiet")[0] == 0


def test_readme_shows_exactly_the_example(folder):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    example = (ROOT / "examples" / "my_pde.py").read_text()
    assert any(block.strip() == example.strip() for block in blocks)


def test_list_shows_every_member(capsys, folder):
    code, out, _ = call(capsys, cli.main, "list")
    assert code == 0
    for name in ("poisson", "hjb", "metakan", "bspline", "hutchinson", "official"):
        assert re.search(rf"^\s+{name}\s+\S", out, re.M), name


def test_plot_and_compare_a_run(capsys, drawn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "main_pictures", lambda *_, **__: [])
        run(capsys, "poisson", "--dim", 3, "--steps", 4, "--quiet", *TINY, "--out", "p.h5")
    code, out, err = call(capsys, cli.main, "plot", "p.h5", "--folder", "pictures")
    assert code == 0, err
    assert {"p-convergence.png", "p-error.png", "p-radial.png", "p-quantiles.png"} <= {
        p.name for p in Path("pictures").iterdir()
    }
    code, out, _ = call(capsys, cli.main, "compare", "p.h5", "p.h5", "--format", "csv")
    assert code == 0 and out.count("poisson") == 2
    assert call(capsys, cli.main, "compare", "p.h5", "--format", "markdown")[1].startswith("|")
    assert "poisson" in call(capsys, cli.main, "compare", "p.h5")[1]


@pytest.mark.parametrize("command", ["plot", "compare"])
def test_plot_and_compare_of_no_result_are_one_line(capsys, folder, command):
    Path("broken.h5").write_text("no")
    for file in ("broken.h5", "none.h5"):
        code, _, err = call(capsys, cli.main, command, file)
        assert code == 2 and file in err and err.count("\n") == 1


def test_import_needs_no_drawing_library(process):
    assert process.stdout.splitlines()[0] == "[]"
