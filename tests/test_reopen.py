"""Whatever a problem or domain of one's own names at the start of a run is there again when the run is opened."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import configuration, one_line

import kanpde
from kanpde import Run
from kanpde.domains import Ball, Domain
from kanpde.problems import Data, Poisson, Problem
from kanpde.records import compare
from kanpde.runs.predict import predict
from kanpde.runs.stored import agreeing, config_of
from kanpde.training.plan import resolved
from kanpde.users.members import problem_of

SMALL = {"points": {"interior": 8, "test": 16, "validation": 16}, "compile": False}
KAN = {"name": "kan", "widths": [3]}

OWN = '''
from dataclasses import dataclass
import torch
import kanpde
from kanpde.domains import Ball, Domain

class Ring(Domain):
    """The ring 1/2 < |x| < 1."""
    laws = ("by area", "by radius: [1]")
    dim = 2
    def interior(self, n, generator, law, sequence="random", **kind):
        assert law in self.laws
        t = torch.rand(n, 1, generator=generator, device=generator.device, **kind)
        return Ball(2).boundary(n, generator, **kind) * ((1 + 3 * t).sqrt() / 2 if law == "by area" else (1 + t) / 2)
    def boundary(self, n, generator, sequence="random", **kind):
        inner = torch.arange(n, device=generator.device) % 2 / 2
        return Ball(2).boundary(n, generator, **kind) * (1 - inner).unsqueeze(1)
    def contains(self, x):
        return (x.norm(dim=1) <= 1) & (x.norm(dim=1) >= 0.5)
    def factor(self, x):
        return kanpde.Field.of(lambda x: (1 - x.square().sum(1)) * (x.square().sum(1) - 0.25), x)
    def input_range(self, law):
        return [(-1, 1), (-1, 1)]
    def frame(self):
        return (0, 0), 1

@dataclass(frozen=True)
class Flow(kanpde.Problem):
    """Lap u = -1 in a ring."""
    name_of_it: str = "a: [b]"
    levels: tuple[float, ...] = (1.0, 2.0)
    limit: float = 1.0
    @property
    def domain(self):
        return Ring()
    def residual(self, u, x):
        return u.lap + 1
'''


@pytest.mark.parametrize("law", ["by area", "by radius: [1]"])
def test_a_domain_with_laws_of_its_own_from_a_file(tmp_path, law, monkeypatch):
    """Trained, resumed, opened, predicted, drawn and compared, from the command line and from Python."""
    monkeypatch.chdir(tmp_path)
    Path("ring.py").write_text(OWN)
    options = "levels: [0.5, .inf], limit: .inf, name_of_it: 'x: y'"
    Path("ring.yaml").write_text(
        f"problem: {{name: 'ring.py:Flow', dim: 2, {options}}}\nbackbone: {{name: kan, widths: [3]}}\n"
        f"points: {{interior: 8, test: 16, validation: 16, law: '{law}'}}\n"
    )
    config = kanpde.config.load("ring.yaml", None, {"compile": False}, [], 2)
    problem = problem_of(config.problem)
    run = kanpde.train(problem, config=config, out="ring.h5")
    made = Run.open("ring.h5").load_model(trust=True)
    assert made.problem.levels == (0.5, float("inf")) and made.problem.name_of_it == "x: y"
    assert run.attrs["law"] == config_of(Run.open("ring.h5")).points.law == law
    wanted = agreeing(Run.open("ring.h5"), "ring.yaml", None, {}, [], 4).config
    assert kanpde.resume("ring.h5", steps=wanted.steps).attrs["steps"] == 4
    Path("x.csv").write_text("x1,x2\n0.5,0.5\n")
    assert len(predict(Run.open("ring.h5"), "x.csv", trust=True)[0]) == 3
    assert compare.summary(Run.open("ring.h5"))
    with pytest.raises(kanpde.ConfigError, match="'by aera'; did you mean by area") as info:
        resolved(kanpde.config.load("ring.yaml", None, {"points": {"law": "by aera"}}), problem)
    one_line(info)


@dataclass(frozen=True)
class Named(Problem):
    """A problem with a field of any kind."""

    value: Any = None
    line: Any = "a title"
    terms: tuple[str, ...] = ()

    @property
    def title(self):
        return self.line

    @property
    def domain(self):
        return Ball(self.dim)

    def residual(self, u, x):
        return u.lap + 1

    def extra_terms(self, u):
        return {name: u(torch.zeros(1, 2)).square().mean() for name in self.terms}

    def __len__(self):
        return 0  # such a problem is there all the same


VALUES = {
    "tuple": (1, (2.0, "a")),
    "none": None,
    "numpy": np.float64(1.5),
    "array": np.arange(3),
    "infinite": float("inf"),
    "nan": float("nan"),
    "path": Path("a/b"),
    "mapping": {"a": (1, 2), 3: "b"},
    "function": len,
    "tensor": torch.ones(2),
    "text": "a: [b]\n~\x00",
    "large": 10**30,
}
TITLES = {"empty": "", "lines": "a\nb", "long": 70_000 * "x", "nul": "a\x00b", "none": None, "number": 3}
REOPENED = {
    **{f"field: {name}": {"value": value} for name, value in VALUES.items()},
    **{f"title: {name}": {"line": title} for name, title in TITLES.items()},
    "term with a slash": {"terms": ("a/b", "a c", "ä.b")},
}


def reopened(problem, out: Path, net=None, **given) -> None:
    """Train, open, go on and compare."""
    given = {**SMALL, **given} if net is not None else {**SMALL, "backbone": KAN, **given}
    run = kanpde.train(problem, net, out=out, steps=1, **given)
    for problem_again in [problem] if str(run.config["problem"]["name"]).startswith("python.") else [None, problem]:
        Run.open(out).load_model(problem=problem_again, net=net)
    kanpde.resume(out, problem=problem, net=net, steps=2)
    assert compare.summary(Run.open(out)) and Run.open(out).attrs["steps"] == 2


@pytest.mark.parametrize("case", REOPENED)
def test_what_a_problem_names_does_not_keep_its_run_shut(case, tmp_path):
    reopened(Named(2, **REOPENED[case]), tmp_path / "run.h5")


def test_numbers_of_numpy_and_paths_are_those_of_yaml(tmp_path):
    reopened(Poisson(np.int64(3), seed=np.int32(7)), tmp_path / "poisson.h5")
    assert Run.open(tmp_path / "poisson.h5").load_model().problem == Poisson(3, seed=7)
    assert configuration(Poisson(np.int64(1000)), {}).start == "ladder"  # the default solver of the dimension
    table = tmp_path / "rows.csv"
    table.write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(40)))
    reopened(Data(file=table), tmp_path / "data.h5")
    assert Run.open(tmp_path / "data.h5").load_model().problem.file == str(table)


def test_classes_within_functions_and_networks_of_ones_own(tmp_path):
    @dataclass(frozen=True)
    class Within(Named):
        pass

    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    reopened(Within(2), tmp_path / "within.h5")
    reopened(Within(2), tmp_path / "net.h5", net)


@pytest.mark.parametrize("terms", [("a", "a/b"), (".",), ("",), ("a//b",)])
def test_terms_that_the_history_cannot_hold_are_refused_before_the_run(terms, tmp_path):
    with pytest.raises(kanpde.ConfigError, match="terms: given") as info:
        reopened(Named(2, terms=terms), tmp_path / "run.h5")
    one_line(info)


def test_a_configuration_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    @dataclass(frozen=True)
    class Odd(Named):
        value: Any = field(default_factory=dict)

        def settings(self):
            return {"rows": np.arange(3)}

    with pytest.raises(kanpde.ConfigError, match="cannot be written") as info:
        kanpde.train(Odd(2), out=tmp_path / "run.h5", steps=1, backbone=KAN, **SMALL)
    one_line(info)
    assert not list(tmp_path.iterdir())


# A domain that is no `Domain` ----------------------------------------------------------------------------------------


def duck(*left_out: str):
    """A problem on a disc that derives from nothing."""
    disc = {name: getattr(Ball(2), name) for name in dir(Ball) if not name.startswith("_")} | {"dim": 2}
    members = {k: staticmethod(v) if callable(v) else v for k, v in disc.items() if k not in left_out}

    @dataclass(frozen=True)
    class On(Named):
        @property
        def domain(self):
            return type("Duck", (), members)()

    return On(2)


@pytest.mark.parametrize("left_out", [(), ("boundary",), ("frame", "contains")])
def test_a_domain_that_derives_from_nothing_works_with_what_its_run_reads(left_out, tmp_path):
    assert not isinstance(duck().domain, Domain)
    reopened(duck(*left_out), tmp_path / "run.h5")


@pytest.mark.parametrize("left_out", [("laws",), ("interior", "contains", "factor", "input_range"), ("dim", "laws")])
def test_what_it_lacks_is_said_before_the_run(left_out, tmp_path):
    lacking = ", ".join(
        name for name in ("dim", "laws", "interior", "contains", "factor", "input_range") if name in left_out
    )
    with pytest.raises(kanpde.ConfigError, match=f"the domain Duck lacks {lacking}:") as info:
        kanpde.train(duck(*left_out), out=tmp_path / "run.h5", steps=1, backbone=KAN, **SMALL)
    one_line(info)
    assert not list(tmp_path.iterdir())
