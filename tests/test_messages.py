"""What goes wrong is said in one line that a user can act on: what was given, where, and what is allowed."""

import copy
import gc
import math
import pickle
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest
import torch
from conftest import call, one_line

from kanpde import Jet, Problem, Run, RunFailed, config, train
from kanpde.domains import Ball
from kanpde.ground import construct
from kanpde.ground.errors import ConfigError
from kanpde.problems import Poisson
from kanpde.users import modules as user_modules

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "nested": ("problem: " + "[" * 1000 + "]" * 1000, "more than 100 levels"),
    "nested in blocks": ("".join(f"{' ' * i}a:\n" for i in range(1000)), "line 100: more than 100 levels"),
    "nested by aliases": ("a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(200)), "levels"),
    "alias in itself": ("problem: &a [*a]", "line 1: an alias within what it stands for"),
    "aliases of aliases": (LAUGHS, "aliases stand for 1.2e+09 values"),
    "key twice": (
        "problem: poisson\nseed: 1\nbackbone: kan\nseed: 2\n",
        "line 4: the key 'seed' stands twice, first in line 2",
    ),
    "key twice below": ("problem: {name: poisson, dim: 3, dim: 4}", "the key 'dim' stands twice"),
    "tab": ("problem:\n\tname: poisson", "line 2: found character"),
    "python tag": ("problem: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "octal": ("problem: {name: poisson, dim: 010}", "010 is the octal number 8 in YAML: write 8, or 10"),
    "huge integer": ("seed: " + "9" * 5000, "is no int"),
    "no integer": ("seed: !!int x", "'x' is no int"),
    "no truth": ("compile: !!bool z", "'z' is no bool"),
    "no date": ("seed: !!timestamp x", "'x' is no timestamp"),
    "two documents": ("problem: poisson\n---\nproblem: heat", "but found another document"),
    "control character": ("problem: \x01", "not valid YAML"),
    "unhashable key": ("? [a]\n: 1", "unhashable"),
    "number as key": ("problem: poisson\n1: 2", "1: given"),
    "steps": ("problem: poisson\nsteps: 100", "--steps"),
    "dim": ("problem: poisson\ndim: 10", "problem.dim"),
}


@pytest.mark.parametrize("case", FILES, ids=list(FILES))
def test_a_yaml_that_cannot_be_meant_is_one_line(tmp_path, case):
    text, says = FILES[case]
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError) as info:
        config.load(str(tmp_path / "p.yaml"))
    assert says in one_line(info) and len(one_line(info)) < 600


@pytest.mark.parametrize(
    "assignment, says",
    {
        "solver=paper": "the option --solver",
        "steps=5": "--steps",
        "dim=5": "problem.dim",
        "out=x.h5": "--out",
        "resume=x.h5": "--resume",
        "=": "a.b=c",
        "a": "a.b=c",
        "phases.²=1": "nothing at ²",
        f"phases.{'9' * 5000}=1": "nothing at",
        "points=5": "points",
        "phases.0.steps=0": "phases.0.steps",
        "points.interior=" + "[" * 1000: "more than 100 levels",
        "seed=010": "octal",
        "points={interior: 3, interior: 4}": "stands twice",
        ".".join("a" * 1000) + "=1": "no key so deep",
    }.items(),
)
def test_an_assignment_that_cannot_be_meant_is_one_line(assignment, says):
    with pytest.raises(ConfigError) as info:
        config.load("poisson", sets=[assignment])
    assert says in one_line(info)


def test_words_and_numbers_of_yaml_are_what_they_look_like(tmp_path):
    """Columns called no and on, a date, and numbers without a point."""
    (tmp_path / "p.yaml").write_text(
        "problem: {name: data, file: 2024-01-01, ranges: {no: [1e-3, 1E+4], on: [-2e0, .5e1]}}\nsolver: fit\n"
        "points: &few {interior: {20: 7}}\nphases: [{<<: {steps: 3, lr: 1}, lr: 2e-3}]\n"
    )
    made = config.load(str(tmp_path / "p.yaml"))
    assert made.problem["ranges"] == {"no": [1e-3, 1e4], "on": [-2.0, 5.0]}
    assert made.problem["file"].endswith("2024-01-01")
    assert made.points.interior == {20: 7} and (made.phases[0].steps, made.phases[0].lr) == (3, 2e-3)


def test_a_long_value_is_cut_short():
    with pytest.raises(ConfigError) as info:
        config.load("poisson", sets=[f"points.interior=[{', '.join('1' * 5000)}]"])
    assert len(one_line(info)) < 400


# ---------------------------------------------------------------------------------------------------------------
# A user's problem file

HEAD = """import torch
from dataclasses import dataclass
import kanpde
from kanpde.domains import Ball
"""
TINY = ["points.interior=10", "points.test=50", "points.validation=20", "slices.volume=0", "slices.points=3"]
TINY = [word for name in [*TINY, "backbone.widths=[4]"] for word in ("--set", name)]
NO_GRADIENT, SOFT = ["loss.gradient=none"], ["loss.gradient=none", "constraint=soft", "points.boundary=5"]


def mine(residual: str = "u.lap + 1", more: str = "", above: str = "@dataclass(frozen=True)", domain: str = "Ball(2)"):
    """The text of a problem file; the residual stands in line 12, what follows from line 14 on."""
    return (
        f"{HEAD}{above}\nclass Mine(kanpde.Problem):\n    k: float = 1.0\n    @property\n    def domain(self):\n"
        f"        return {domain}\n    def residual(self, u, x):\n        return {residual}\n{more}"
    )


def defined(name: str, value: str, arguments: str = "self, x") -> str:
    return f"    def {name}({arguments}):\n        return {value}\n"


def solved(capsys, text: str, *sets: str, name: str = "my.py:Mine", steps: int = 1):
    """(exit code, standard error) of the command line for a problem file my.py in the current folder."""
    Path("my.py").write_text(text)
    Path("my.yaml").write_text(f"problem: {{name: '{name}', dim: 2}}\nbackbone: kan\n")
    words = [word for given in sets for word in ("--set", given)]
    code, _, err = call(capsys, "solve", "my.yaml", "--steps", steps, "--quiet", "--out", "o.h5", *TINY, *words)
    return code, err


@pytest.fixture
def folder(tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)
    return tmp_path


DIRECTIONS = defined("directions", "torch.eye(2, dtype=x.dtype)")
NO_SECOND = defined("coefficients", "None")
REFUSED = {  # text of the file, settings, what is said
    "u.grad": (
        mine("u.grad.sum(-1)"),
        [],
        "my.py, line 12, in residual: AttributeError: no grad here: a jet offers value",
    ),
    "u.t": (mine("u.t + u.lap"), [], "first derivatives: along[:, k] = v_k . grad u, with v_k from directions(x)"),
    "u.xx": (mine("u.xx"), [], "second derivatives: lap = sum_i s_i d^2u/dx_i^2"),
    "u.sin()": (mine("u.sin()"), [], "it is no tensor, but its value is: value.sin"),
    "2 u": (
        mine("2 * u"),
        [],
        "line 12, in residual: TypeError: unsupported operand type(s) for *: 'int' and 'Jet' (a jet",
    ),
    "no directions": (mine("u.along[:, 0]"), [], "the residual reads u.along, but the problem states no directions"),
    "too few": (mine("u.along[:, 3]", DIRECTIONS), [], "line 12, in residual: IndexError: index 3 is out of bounds"),
    "what along has": (mine("u.along[:, 3]", DIRECTIONS), [], "a jet offers value (3,), along (3, 2), lap (3,)"),
    "no coefficients": (
        mine("u.lap + 1", NO_SECOND),
        [],
        "the residual reads u.lap, but the problem's coefficients are None",
    ),
    "only lap": (mine("u.lap", NO_SECOND), [], "the residual reads u.lap"),
    "(N, 2)": (mine("torch.stack([u.lap, u.lap], 1)"), [], "the residual: given is a tensor of shape (3, 2)"),
    "(N, 1)": (mine("u.lap[:, None]"), [], "shape (3, 1) and type float32 at 3 points of 2 coordinates, needed is"),
    "scalar": (mine("u.lap.mean()"), [], "given is a tensor of shape ()"),
    "tuple": (mine("(u.lap, 2.0)"), [], "the equation equation_2: given is float"),
    "numpy": (mine("u.lap.detach().numpy()"), [], "the residual: given is a ndarray of shape (3,)"),
    "integers": (mine("u.lap.long()"), [], "the residual: given is a tensor of shape (3,) and type int64"),
    "None": (mine("None"), [], "the residual: given is NoneType"),
    "no equation": (mine("()"), [], "the residual returns no equation"),
    "nan": (mine("u.lap + torch.nan"), [], "the residual is not finite at x = (0."),
    "no u": (mine("0 * x[:, 0]"), [], "the residual does not depend on u"),
    "detached": (mine("u.lap.detach()"), NO_GRADIENT, "the residual does not depend on u"),
    "undefined": (mine("u.lap + y"), [], "my.py, line 12, in residual: NameError: name 'y' is not defined"),
    "helper": (
        mine("f(u)", "def f(u):\n    return u.lap / 0 + 1 / 0\n"),
        [],
        "my.py, line 14, in f: ZeroDivisionError",
    ),
    "source (N, 1)": (
        mine().replace("residual(self, u, x)", "left_side(self, u, x)") + defined("source", "x[:, :1]"),
        [],
        "the source: given is a tensor of shape (3, 1)",
    ),
    "exact (N, 1)": (
        mine(more=defined("exact", "x[:, :1]")),
        [],
        "the exact solution: given is a tensor of shape (3, 1)",
    ),
    "exact nan": (
        mine(more=defined("exact", "x[:, 0] * torch.nan")),
        [],
        "the exact solution is not finite at x = (0.",
    ),
    "exact raises": (mine(more=defined("exact", "y")), [], "my.py, line 14, in exact: NameError"),
    "coefficients": (
        mine(more=defined("coefficients", "torch.ones(5)")),
        [],
        "coefficients: given is a tensor of shape (5,)",
    ),
    "matrix": (
        mine(more=defined("coefficients", "torch.eye(2)")),
        [],
        "coefficients: given is a tensor of shape (2, 2)",
    ),
    "directions": (
        mine(more=defined("directions", "torch.ones(2)")),
        [],
        "directions: given is a tensor of shape (2,)",
    ),
    "factor": (mine(more=defined("factor", "x.foo")), [], "my.py, line 14, in factor: AttributeError"),
    "lift": (mine(more=defined("lift", "x[:, 0]")), [], "lift: given is a tensor of shape (3,)"),
    "boundary (N, 1)": (
        mine(more=defined("boundary_value", "x[:, :1]")),
        SOFT,
        "boundary_value: given is a tensor of shape (64, 1)",
    ),
    "terms": (mine(more="    terms = ('data')\n"), [], "terms: given 'data', needed is a tuple of names"),
    "terms (N,)": (
        mine(more="    terms = ('data',)\n" + defined("extra_terms", "{'data': u(torch.ones(4, 2))}", "self, u")),
        [],
        "extra_terms: data is float32 of shape (4,)",
    ),
    "domain": (
        mine(domain="None"),
        [],
        "problem Mine: domain: given is NoneType; needed is one such as kanpde.domains.Ball",
    ),
    "domain raises": (mine(domain="Ball(self.q)"), [], "my.py, line 10, in domain: AttributeError"),
    "init raises": (
        mine(more=defined("__post_init__", "1 / 0", "self")),
        [],
        "line 14, in __post_init__: ZeroDivisionError",
    ),
    "no problem": (
        HEAD + "class Mine:\n    pass\n",
        [],
        "my.py:Mine: given is the class Mine; needed is a class derived",
    ),
    "function": (HEAD + "def Mine(dim):\n    pass\n", [], "given is the function Mine"),
    "number": (HEAD + "Mine = 3\n", [], "given is int, 3"),
    "no dataclass": (
        mine(above=""),
        ["problem.k=2"],
        "k is no option: needed is @dataclass(frozen=True) above the class",
    ),
    "not frozen": (mine(above="@dataclass"), [], "my.py, line 5: TypeError: cannot inherit non-frozen dataclass"),
    "syntax": (HEAD + "class Mine(:\n", [], "my.py, line 5: SyntaxError"),
    "no module": (
        HEAD + "import nowhere_at_all\n",
        [],
        "my.py, line 5: ModuleNotFoundError: No module named 'nowhere_at_all'",
    ),
    "ends": (HEAD + "raise SystemExit\n", [], "my.py, line 5: SystemExit"),
}


@pytest.mark.parametrize("case", REFUSED, ids=list(REFUSED))
def test_what_a_user_states_is_checked_before_the_run(capsys, folder, case):
    text, sets, says = REFUSED[case]
    code, err = solved(capsys, text, *sets)
    assert code == 2 and says in err and err.count("\n") == 1, err
    assert not Path("o.pt").exists()


ACCEPTED = {
    "a jet of ones divides by zero": (mine("u.lap + 1 / (1 - u.value)"), NO_GRADIENT),
    "asks what there is": (mine("u.lap + (1 if u.along is None and not hasattr(u, 'grad') else u.along[:, 0])"), []),
    "numbers for tensors": (
        mine().replace("residual(self, u, x)", "left_side(self, u, x)")
        + defined("source", "1.0")
        + defined("boundary_value", "0"),
        SOFT,
    ),
}


@pytest.mark.parametrize("case", ACCEPTED, ids=list(ACCEPTED))
def test_what_can_be_trained_is_not_refused(capsys, folder, case):
    assert solved(capsys, ACCEPTED[case][0], *ACCEPTED[case][1]) == (0, "")


@pytest.mark.parametrize(
    "residual, says",
    [
        ("u.lap + (1 / 0 if len(x) == 10 else 1)", "my.py, line 12, in residual: ZeroDivisionError"),
        (
            "u.lap + (torch.nan if len(x) == 10 else 1)",
            "term interior is nan, first of all terms; its residual is not finite at x = (",
        ),
    ],
)
def test_what_fails_during_a_run_names_line_or_point(capsys, folder, residual, says):
    code, err = solved(capsys, mine(residual), *NO_GRADIENT)
    assert code == 1 and says in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    "name",
    [
        "my.py:",
        "my.py:A B",
        "my.py:Mine:Mine",
        "notes.txt:Mine",
        "my:Mine",
        ".:Mine",
        "a\0.py:Mine",
        "a" * 300 + ".py:Mine",
    ],
)
def test_a_class_is_named_by_a_file_of_python_and_a_name(folder, name):
    """No other file is executed."""
    Path("notes.txt").write_text("raise KeyboardInterrupt")
    Path("my.py").write_text(mine())
    with pytest.raises(ConfigError) as info:
        user_modules.load_class(name)
    assert "needed is a file ending in .py and a class in it" in one_line(info) or "no file" in one_line(info)


def test_errors_of_a_users_code_keep_their_cause(tmp_path):
    """From Python: the line before and during the run, a callback's error as it is."""

    @dataclass(frozen=True)
    class Own(Problem):
        fails_at: int = 3

        @property
        def domain(self):
            return Ball(2)

        def residual(self, u, x):
            if len(x) == self.fails_at:
                raise KeyError("mine")
            return u.lap + 1

    small = {
        "steps": 1,
        "backbone": {"name": "mlp", "widths": [4]},
        "points": {"interior": 10, "validation": 20, "test": 50},
    }
    for fails_at, kind in ((3, ConfigError), (10, RunFailed)):
        with pytest.raises(kind, match=r"test_messages.py, line \d+, in residual: KeyError: 'mine'") as info:
            train(Own(2, fails_at), **small, loss={"gradient": "none"}, out=tmp_path / f"{fails_at}.h5")
        assert isinstance(info.value.__cause__, KeyError)

    def callback(state):
        raise KeyError("of a callback")

    with pytest.raises(KeyError, match="of a callback"):
        train(Own(2, 0), **small, on_step=callback, out=tmp_path / "c.h5")


@pytest.mark.parametrize(
    "problem, net, says",
    [
        (Poisson, None, "given is the class Poisson; needed is an object of a class derived from kanpde.Problem"),
        ("poisson", None, "given is str, 'poisson'"),
        (Poisson(2), torch.nn.Linear, "net: given is the class Linear; needed is a torch.nn.Module"),
        (Poisson(2), lambda x: x, "net: given is the function"),
    ],
)
def test_train_says_what_it_was_given(problem, net, says):
    with pytest.raises(ConfigError) as info:
        train(problem, net)
    assert says in one_line(info)


def test_a_jet_can_be_copied_and_asked():
    jet = Jet(torch.ones(2), lap=torch.ones(2))
    again = pickle.loads(pickle.dumps(copy.deepcopy(jet)))
    assert again.lap.equal(jet.lap) and not hasattr(jet, "grad") and getattr(jet, "_x", 3) == 3
    with pytest.raises(AttributeError, match="grad_sq was not computed"):
        _ = jet.grad_sq
    with pytest.raises(AttributeError) as info:
        _ = jet.grad
    said = "".join(traceback.format_exception(info.value))
    assert "Did you mean" not in said and "a jet offers value, along, lap, grad_sq" in said


# ---------------------------------------------------------------------------------------------------------------
# Modules beside it


def test_a_file_imports_what_lies_beside_it_and_only_its_own(tmp_path):
    """At once and later, single modules and packages, of the same names in two folders; sys.path stays."""
    path, names = list(sys.path), {"helper", "package"}
    classes = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        (folder / "package").mkdir(parents=True)
        (folder / "helper.py").write_text(f"import inner\nvalue = inner.value + {number}\n")
        (folder / "inner.py").write_text("value = 10\n")
        (folder / "package" / "__init__.py").write_text("from . import part\nfrom helper import value\n")
        (folder / "package" / "part.py").write_text(f"number = {number}\n")
        (folder / "later.py").write_text(f"value = {100 * number}\n")
        (folder / "math.py").write_text("raise RuntimeError('not the standard library')\n")
        (folder / "torch.py").write_text("raise RuntimeError('not the installed one')\n")
        more = (
            "    def found(self):\n        import later, package.part\n        from package import value\n"
            "        return helper.value, package.part.number, value, later.value, math.pi\n"
        )
        (folder / "my.py").write_text("import math\nimport helper\n" + mine(more=more))
        classes.append(user_modules.load_class(f"{folder / 'my.py'}:Mine"))
    for number, cls in enumerate(classes, 1):
        assert cls(2).found() == (10 + number, number, 10 + number, 100 * number, math.pi)
    assert sys.path == path and not names & sys.modules.keys()
    assert not list(tmp_path.rglob("__pycache__"))


def test_what_lies_beside_is_kept_and_checked(capsys, folder):
    """load_model needs no file; --resume refuses one that has changed; a module that is nowhere is named."""
    Path("helper.py").write_text("k = 2.0\n")
    text = mine("u.lap + helper.k").replace("import torch\n", "import torch\nimport helper\n", 1)
    assert solved(capsys, text) == (0, "")
    Path("helper.py").write_text("k = 3.0\n")
    code, _, err = call(capsys, "solve", "--resume", "o.h5", "--steps", 2, "--quiet")
    assert code == 2 and "helper.py has changed since the run" in err and err.count("\n") == 1
    Path("helper.py").unlink()
    assert "helper.py has changed" in call(capsys, "solve", "--resume", "o.h5", "--steps", 2, "--quiet")[2]
    Path("my.py").unlink()
    run = Run.open("o.h5")
    problem = run.load_model(trust=True).problem
    assert sys.modules[type(problem).__module__].helper.k == 2.0
    del run.attrs["problem_modules"]
    with pytest.raises(ConfigError, match=r"my.py, line 2: ModuleNotFoundError: No module named 'helper' \(neither"):
        run.load_model(trust=True)
    Path("helper.py").write_text("k = 2.0\n")
    Path("my.py").write_text(text)
    assert call(capsys, "solve", "--resume", "o.h5", "--steps", 2, "--quiet")[0] == 0


def test_an_error_in_what_lies_beside_names_its_line(capsys, folder):
    Path("helper.py").write_text("\ndef f(u):\n    return u.lap + u.dx\n")
    code, err = solved(capsys, mine("helper.f(u)").replace("import torch\n", "import torch\nimport helper\n", 1))
    assert code == 2 and "helper.py, line 3, in f: AttributeError: no dx here" in err


# ---------------------------------------------------------------------------------------------------------------
# The command line


@pytest.mark.parametrize(
    "args, says",
    [
        (["solv", "poisson"], "solve"),
        (["solve", "poisson", "--dmi", "3"], "--dim"),
        (["solve", "poisson", "--dim", "1e3"], "1e3"),
        (["solve", "poisson", "--dim", "-1"], "dim"),
        (["solve", "poisson", "--seed", "x"], "'x'"),
        (["solve", "poisson", "--max-memory", "0GB"], "max_memory"),
        (["solve", "poisson", "--device", "cuda:99"], "not there"),
        (["solve", "x" * 5000], "unknown problem"),
        (["solve", "poisson", "--solver", "x" * 5000], "unknown solver"),
        (["solve", "poisson", "--out", "x" * 300 + ".h5"], "at most 200 bytes"),
        (["solve", "poisson", "--out", "é" * 120 + ".h5"], "at most 200 bytes"),
        (["solve", "poisson", "--out", "x" * 300 + "/x.h5"], "folder cannot be made"),
        (["solve", "poisson", "--set", "start_from=" + "x" * 300], "no checkpoint"),
        (["solve", "--resume", "x" * 300 + ".h5"], "no such file"),
        (["plot", "x" * 300 + ".h5"], "no such file"),
        (["predict", "x" * 300 + ".h5", "t.csv"], "no such file"),
        (["solve", "data", "--set", "problem.file=" + "x" * 300 + ".csv"], "no such file"),
        (["solve", "poisson", "--set", 'problem="a\\0.py:B"'], "a character of code 0"),
    ],
)
def test_bad_calls_are_one_line_and_exit_2(capsys, folder, args, says):
    code, _, err = call(capsys, *args)
    assert code == 2 and says in err and err.count("\n") == 1, err
    assert list(folder.iterdir()) == []


def test_a_home_folder_is_written_out(capsys, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert call(capsys, "solve", "poisson", "--dim", 2, "--steps", 1, "--quiet", "--out", "~/a.h5", *TINY)[0] == 0
    assert (folder / "home" / "a.h5").is_file() and not Path("~").exists()


# ---------------------------------------------------------------------------------------------------------------
# Optimisers, damaged files, full disks


def phase(optimizer: str, options: str, lr: str = "1e-3") -> str:
    return f"phases=[{{optimizer: {optimizer}, steps: 3, lr: {lr}, options: {options}}}]"


@pytest.mark.parametrize(
    "sets, code, says",
    [
        ([phase("soap", "{}", "1e10"), "loss.weights.interior=1e30"], 1, "step 1: soap: linalg.eigh"),
        ([phase("soap", "{merge_dims: true}")], 2, "optimizer soap: with options {'merge_dims': True}"),
        ([phase("adam", "{fused: true, foreach: true}")], 2, "optimizer adam: `fused` and `foreach`"),
        ([phase("adam", "{differentiable: true}")], 2, "optimizer adam: with options"),
        ([phase("adam", "{eps: .nan}")], 2, "eps: given nan, that is not a number"),
    ],
)
def test_an_optimiser_that_fails_is_one_line(capsys, folder, sets, code, says):
    found, err = solved(capsys, mine(), *sets)
    assert found == code and says in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    "where, value", [(("optimizer", "state", 0, "exp_avg"), 3), (("history", "loss"), "x"), (("step",), "x")]
)
def test_a_damaged_checkpoint_is_one_line(capsys, folder, where, value):
    assert solved(capsys, mine())[0] == 0
    saved = torch.load("o.pt", weights_only=True)
    node = saved
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    torch.save(saved, "o.pt")
    code, _, err = call(capsys, "solve", "--resume", "o.h5", "--steps", 3, "--quiet")
    assert code in (1, 2) and err.count("\n") == 1, err


def test_an_empty_attribute_is_a_damaged_result(capsys, folder):
    with h5py.File("e.h5", "w") as file:
        file.attrs.update(schema_version=1, parameters=h5py.Empty("f"))
        file.create_group("history")
    code, _, err = call(capsys, "compare", "e.h5")
    assert code == 2 and "a damaged kanpde result" in err and err.count("\n") == 1


def test_a_complaint_that_is_no_text_is_a_damaged_result(capsys, folder, monkeypatch):
    """h5py repeats the bytes of a damaged name, and fails to."""
    with h5py.File("e.h5", "w") as file:
        file.attrs.update(schema_version=1)
        file.create_group("history/part")
    monkeypatch.setattr(h5py.Group, "visititems", lambda *_: b"\xbf".decode())
    code, _, err = call(capsys, "compare", "e.h5")
    assert code == 2 and "a damaged kanpde result ('utf-8' codec" in err and err.count("\n") == 1


def test_a_full_disk_prints_nothing_of_its_own(folder, capfd):
    """A file that may not grow stands for the full disk; the one line is of whoever catches the error."""
    resource = pytest.importorskip("resource")
    run = Run("f.h5")
    run.set_field({"u": torch.zeros(10_000).numpy()})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    del run
    gc.collect()
    assert capfd.readouterr().err == "" and list(folder.iterdir()) == []


def test_a_field_that_a_plain_class_restates_is_told_of():
    class Mine(Problem):
        dim = 2

    with pytest.raises(ConfigError) as info:
        construct.call("problem Mine", Mine, {})
    assert one_line(info) == "problem Mine: dim: missing (dim = 2 in its class is read below @dataclass(frozen=True))"
