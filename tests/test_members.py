"""Members of a user's file: on the command line, in YAML and Python, in the list, in the result, and on resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import call, one_line

import kanpde
from kanpde import Run, backbones, operators, problems, testing
from kanpde.domains import Ball, Box, Cylinder
from kanpde.kan import basis
from kanpde.kan.weights import Meta
from kanpde.users.modules import load_class

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_members.py"
SMALL = {"points": {"interior": 10, "test": 20, "validation": 10}, "slices": {"points": 5, "volume": 0}}
SETS = [f"points.{kind}={n}" for kind, n in SMALL["points"].items()] + ["slices.points=5", "slices.volume=0"]
SETS = [word for each in SETS for word in ("--set", each)]


@pytest.fixture
def file(tmp_path, monkeypatch, no_pictures) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(EXAMPLE, tmp_path / "mine.py"))


@pytest.mark.parametrize("backbone", ["Hermite", "metaHermite", "two_layers"])
def test_a_run_by_the_command_line_is_kept_opened_and_gone_on_with(file, capsys, backbone):
    words = ["--backbone", f"mine.py:{backbone}", "--set", "operator=mine.py:Differences", "--set", "dtype=float64"]
    words += ["--set", "phases.0.optimizer=mine.py:Signs", "--set", "loss.gradient=none", "--steps", 4, *SETS]
    code, _, error = call(capsys, "solve", "poisson", "--dim", 3, *words, "--out", "run.h5", "--quiet")
    assert (code, error) == (0, "")
    run = Run.open("run.h5")
    assert run.attrs["backbone"] == backbone
    kept = json.loads(run.attrs["member_sources"])
    assert {Path(name).name for name in kept} == {f"mine.py:{backbone}", "mine.py:Differences", "mine.py:Signs"}
    assert all(each["source"] == file.read_text() for each in kept.values())
    with pytest.raises(kanpde.ConfigError, match="load_model.trust=True. executes it") as info:
        run.load_model()
    one_line(info)
    u = run.load_model(trust=True)
    assert any(isinstance(module, Meta) for module in u.modules()) == backbone.startswith("meta")
    code, _, error = call(capsys, "solve", "--resume", "run.h5", "--steps", 6, "--quiet")
    assert (code, error) == (0, "") and Run.open("run.h5").attrs["steps"] == 6


def test_a_resumed_run_is_the_uninterrupted_one(file):
    members = {"backbone": "mine.py:metaHermite", "phases": [{"optimizer": "mine.py:Signs", "steps": 6, "lr": 1e-3}]}
    whole = kanpde.train(problems.Poisson(3), out="whole.h5", **members, **SMALL)
    kanpde.train(problems.Poisson(3), out="part.h5", on_step=lambda s: s.step == 3, **members, **SMALL)
    part = kanpde.resume("part.h5")
    assert part.history["loss"][-1] == whole.history["loss"][-1]


def test_the_source_that_is_kept_is_what_is_opened(file):
    run = kanpde.train(problems.Poisson(3), out="run.h5", steps=2, backbone="mine.py:Hermite", **SMALL)
    x = torch.rand(4, 3)
    before = run.load_model(trust=True)(x)
    file.unlink()
    torch.testing.assert_close(Run.open("run.h5").load_model(trust=True)(x), before)


def test_a_file_that_has_changed_is_not_gone_on_with(file, capsys):
    kanpde.train(problems.Poisson(3), out="run.h5", steps=2, backbone="mine.py:Hermite", **SMALL)
    file.write_text(file.read_text() + "\n# another\n")
    code, _, error = call(capsys, "solve", "--resume", "run.h5", "--steps", 3)
    assert code == 2 and "mine.py has changed since the run" in error and len(error.splitlines()) == 1


def test_yaml_names_files_beside_it(file, capsys, tmp_path, monkeypatch):
    Path("run.yaml").write_text(
        "problem: {name: poisson, dim: 3}\nbackbone: {name: 'mine.py:Hermite', count: 3, widths: [2]}\n"
        "operator: {name: 'mine.py:Differences', h: 1.0e-2}\nloss: {gradient: none}\n"
        "phases: [{optimizer: 'mine.py:Signs', steps: 2, options: {momentum: 0.5}}]\n"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, error = call(capsys, "solve", "../run.yaml", "--dry-run")
    assert (code, error) == (0, "") and f"name: {file}:Hermite" in out.replace("\n    ", "") and "count: 3" in out


@pytest.mark.parametrize(
    "words, says",
    [
        (["--backbone", "mine.py:Hermit"], "unknown class in .*mine.py 'Hermit'; did you mean Hermite"),
        (["--backbone", "nowhere.py:Hermite"], "no file .*nowhere.py"),
        (["--backbone", "mine.py:Signs"], "backbone .*mine.py:Signs: needed is a class derived from kanpde.kan.basis"),
        (["--backbone", "mine.py:metatwo_layers"], "needed is a class derived from kanpde.kan.basis"),
        (["--backbone", "mine.py:Hermite", "--set", "backbone.counts=3"], "'counts'; did you mean count"),
        (["--set", "operator=mine.py:Signs"], "operator .*needed is a class derived from kanpde.operators"),
        (["--set", "phases.0.optimizer=mine.py:Hermite"], "optimizer .*needed is a class derived from torch.optim"),
        (["--set", "phases.0.optimizer=adm"], "unknown phases: optimizer 'adm'; did you mean adam"),
        (["--set", "operator=mine.txt:Signs"], "needed is a file ending in .py"),
    ],
)
def test_what_is_no_member_is_one_line(file, capsys, words, says):
    import re

    code, _, error = call(capsys, "solve", "poisson", "--dim", 3, *words, "--dry-run")
    assert code == 2 and re.search(says, error) and len(error.splitlines()) == 1


def test_the_members_of_a_file_are_listed(file, capsys):
    code, out, _ = call(capsys, "list", "mine.py")
    names = ("Hermite", "metaHermite", "two_layers", "Differences", "Signs")
    assert code == 0 and all(f"mine.py:{name} " in out for name in names) and "gauss_newton" not in out
    assert "gauss_newton" in call(capsys, "list")[1]


# ---------------------------------------------------------------------------------------------------------------
# The checks of kanpde.testing


@pytest.mark.parametrize("name", basis.BASES)
def test_shipped_bases_pass(name):
    lines = testing.check_basis(basis.BASES[name]).lines
    assert {what for what, _, _ in lines} >= {
        "slopes",
        "curvatures",
        "edges one by one",
        "gradient by the weights",
        "jet: lap",
    }


@pytest.mark.parametrize("name", ["mlp", "kan", "metakan", "fastkan", "metawavkan"])
def test_shipped_networks_pass(name):
    assert "jet: lap" in str(testing.check_backbone(name, widths=(4,)))


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_shipped_operators_pass(name):
    testing.check_operator(operators.OPERATORS[name](**({"dims": 2} if name == "sdgd" else {})))


@pytest.mark.parametrize("domain", [Ball(3, 2.0), Box(2, (0, 1), (1, 5)), Cylinder(Box(2, 0, 1), 3.0)], ids=repr)
def test_shipped_domains_pass(domain):
    assert "factor on the boundary" in str(testing.check_domain(domain))


class Skewed(Ball):
    def factor(self, x):
        field = super().factor(x)
        return kanpde.Field(field.value, 1.01 * field.grad, field.hessian_diagonal)


class Wide(Ball):
    def interior(self, n, generator, law="radial", sequence="random", **kind):
        return 1.5 * super().interior(n, generator, law, sequence, **kind)


class Unseeded(Ball):
    def interior(self, n, generator, law="radial", sequence="random", **kind):
        return 0.1 * torch.rand(n, self.dim, **kind)


@pytest.mark.parametrize(
    "domain, says",
    [(Skewed(3), "factor: grad is off"), (Wide(3), "are not in the domain"), (Unseeded(3), "global generator")],
)
def test_a_domain_that_is_wrong_is_told(domain, says):
    with pytest.raises(AssertionError, match=says) as info:
        testing.check_domain(domain)
    one_line(info)


def test_a_basis_and_an_operator_that_are_wrong_are_told():
    hermite = load_class(f"{EXAMPLE}:Hermite")

    class Off(hermite):
        def formula(self):
            right = super().formula()
            return lambda first, last, *args, **kind: [
                f * (1.001 if first + i == 2 else 1) for i, f in enumerate(right(first, last, *args, **kind))
            ]

    with pytest.raises(AssertionError, match="curvatures is off by"):
        testing.check_basis(Off)

    class Biased(operators.Hutchinson):
        def _gram(self, x, s, generator):
            return super()._gram(x, 1.2 * s, generator)

    with pytest.raises(AssertionError, match="standard errors off"):
        testing.check_operator(Biased())
    with pytest.raises(AssertionError, match="lap is off by"):
        testing.check_operator(load_class(f"{EXAMPLE}:Differences")(h=0.1))


def test_a_network_that_draws_from_the_global_generator_is_told():
    with pytest.raises(AssertionError, match="global generator"):
        testing.check_backbone(lambda dim_in, dim_out=1, *, generator: torch.nn.Linear(dim_in, dim_out))


def test_a_basis_may_have_a_name():
    """An entry in the table, as those that are shipped."""
    hermite = load_class(f"{EXAMPLE}:Hermite")
    backbones.family("hermitekan", hermite)
    try:
        run = kanpde.train(problems.Poisson(2), backbone="metahermitekan", steps=1, out="/dev/null", **SMALL)
    except kanpde.ConfigError as error:  # the name of the file, and nothing of the network
        assert "/dev/null" in str(error)
    else:
        raise AssertionError(run)
    finally:
        for name in ("hermitekan", "metahermitekan"):
            del backbones.BACKBONES[name]
        del backbones.FAMILIES["hermitekan"]
