"""YAML to configurations, and one line for everything that does not fit."""

from pathlib import Path

import pytest
import yaml
from conftest import OF_DERIVATIVES, configuration, planned

from kanpde import config
from kanpde.config.trees import rescale
from kanpde.ground.errors import ConfigError
from kanpde.operators import forward
from kanpde.problems import FITS, LOW_DIM, Poisson
from kanpde.runs.stored import _leaves
from kanpde.training import plan
from kanpde.users.members import problem_of

PROBLEM_FILES = sorted(p for p in config.library("problems").glob("*.yaml") if p.stem not in LOW_DIM)  # test_library
SOLVER_FILES = sorted(config.library("solvers").glob("*.yaml"))


def resolve(*args, **kwargs):
    return plan.Plan.of(config.load(*args, **kwargs)).config


@pytest.mark.parametrize("solver", SOLVER_FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("problem", PROBLEM_FILES, ids=lambda p: p.stem)
def test_every_shipped_file_builds(problem, solver, tmp_path, monkeypatch):
    if problem.stem in FITS and solver.stem in OF_DERIVATIVES:
        pytest.skip("a fit reads no derivatives")
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("a,b\n" + "".join(f"{i},{i % 3}\n" for i in range(20)))
    resolve(str(problem), str(solver))


def test_there_are_files_to_ship():
    assert len(PROBLEM_FILES) >= 5
    assert {p.stem for p in SOLVER_FILES} >= {"default", "paper", "official"}


BAD = {
    "problem.dmi=3": "dim",
    "points.interor=3": "interior",
    "pionts.interior=3": "points",
    "points.interior=-3": "points.interior",
    "points.interior=abc": "points.interior",
    "points.test=0": "points.test",
    "phases.0.optimizer=adm": "adam",
    "phases.0.lr=-1": "phases.0.lr",
    "phases.0.stpes=3": "steps",
    "phases.7.steps=3": "phases.7.steps",
    "phases=[]": "phases",
    "phases=[{steps: 2}, {steps: 2, lr: {prompts: 1e-2}}]": "meta",
    "points.interior=true": "points.interior",
    "operator={name: autograd, chunk: -1}": "chunk",
    "backbone.grid_range=wide": "grid_range",
    "slices.plane=[1, 1]": "slices.plane",
    "backbone=metakn": "metakan",
    "backbone.grid_sise=5": "grid_size",
    "backbone.grid_size=0": "grid_size",
    "backbone.widths=[32, -1]": "widths",
    "backbone.prompt_dim=0": "prompt_dim",
    "backbone.meta_share=9": "clusters",
    "backbone.grid_range=[1, -1]": "grid_range",
    "backbone.spline_order=2": "spline_order",
    "operator=sgdg": "sdgd",
    "operator={name: sdgd, dims: 0}": "dims",
    "operator={name: sdgd, dims: 21}": "dims",
    "problem=poison": "poisson",
    "problem.solution=two_bdy": "two_body",
    "problem.dim=1": "dim",
    "problem.dim=-4": "dim",
    "problem.dim=two": "dim",
    "problem.seed=-1": "needed is 0 to 4294967295",
    "problem={name: [poisson]}": "needed is a name",
    "operator={name: {a: 1}}": "needed is a name",
    "loss.balance={name: [ntk]}": "needed is a name",
    "backbones=3": "backbones: given 3",
    "backbones={metakan: 3}": "options by name",
    "points.interior={}": "a number of points is",
    "loss.weights.interior={}": "loss.weights.interior",
    "loss.weights.interior=.inf": "finite",
    "points.adapt.power=.inf": "finite",
    "phases.0.lr=.inf": "finite",
    "phases.0.lr={foo: 1}": "phases.0.lr.foo: given 'foo', input should be 'prompts'",
    "slices.plane=[0]": "slices.plane.1: missing",
    "points.interior={20: -1}": "points.interior.20: given -1",
    "problem=nowhere.py:Mine": "nowhere.py",
    "loss.weights.boundry=1": "boundary",
    "loss.residual=two_sample": "exact",
    "constraint=soft": "boundary",
    "device=tpu9": "cpu",
    "dtype=float16": "float32",
    "points.law=raidal": "radial",
    "points.refresh=0": "points.refresh",
    "slices.plane=[0, 99]": "slices.plane",
    "start_from=none.h5": "none.h5",
    "start_from=.": "no checkpoint",
    "seed=-1": "seed",
    "seed=99999999999999999999": "seed",
    "device=meta": "not there",
    "max_memory=1MB": "one point at a time needs",
    "novalue": "a.b=c",
    "points.interior=[": "YAML",
}


@pytest.mark.parametrize("assignment", BAD, ids=list(BAD))
def test_bad_values_are_one_line_that_names_the_key_and_what_is_allowed(assignment):
    with pytest.raises(ConfigError) as info:
        resolve("poisson", sets=[assignment])
    message = str(info.value)
    assert "\n" not in message
    assert BAD[assignment] in message


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "empty"),
        ("a: [", "YAML"),
        ("- 1", "list"),
        ("problem: {dim: 3}", "name"),
        ("problem: heat", "problem heat: dim: missing"),
        ("phase: 3", "phases"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, says):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as info:
        resolve(str(path))
    assert "\n" not in str(info.value)


def test_a_class_in_a_file_states_a_problem_too():
    of = {"problem": {"dim": 3}}
    assert (
        resolve("examples/my_pde.py:Helmholtz", overrides=of).problem["name"].endswith("examples/my_pde.py:Helmholtz")
    )
    with pytest.raises(ConfigError, match=r"^my_pde.py: name the class of the problem too, my_pde.py:MyPDE$"):
        resolve("my_pde.py")


@pytest.mark.parametrize("name", ["nothing.yaml", "allen_can", "folder/allen_cahn.yaml"])
def test_missing_files_name_the_nearest(name):
    with pytest.raises(ConfigError, match=r"no such file|allen_cahn"):
        resolve(name)


def test_flags_win_over_problem_over_solver(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "points: {interior: 1, test: 11, validation: 5}\nphases: [{steps: 9}]\nbackbone: kan\n"
    )
    (tmp_path / "p.yaml").write_text(
        "problem: {name: poisson, dim: 5}\npoints: {interior: 2, test: 22}\nsolver: ignored\n"
    )
    made = resolve(str(tmp_path / "p.yaml"), str(tmp_path / "s.yaml"), {"points": {"interior": 3}}, ["seed=4"])
    assert (made.points.interior, made.points.test, made.points.validation, made.seed) == (3, 22, 5, 4)


def test_another_name_drops_the_options_of_the_old_one():
    merged = config.merge({"backbone": {"name": "metakan", "prompt_dim": 2}}, {"backbone": "mlp"})
    assert merged["backbone"] == {"name": "mlp"}
    kept = config.merge({"backbone": {"name": "kan", "grid_size": 9}}, {"backbone": "kan"})
    assert kept["backbone"] == {"name": "kan", "grid_size": 9}


def test_every_value_can_be_set():
    """Each leaf of a resolved configuration is accepted back through --set and changes nothing."""
    made = config.load("heat")
    leaves = _leaves(made.model_dump(mode="json"))
    sets = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"
        for key, value in leaves.items()
        if value
    ]
    assert config.load("heat", sets=sets).model_dump() == made.model_dump()


def test_numbers_written_as_1e_3_are_numbers():
    assert config.load("poisson", sets=["phases.0.lr=1e-3"]).phases[0].lr == 1e-3


def test_point_counts_by_dimension():
    table = {20: 2000, 50: 4000, 100: 8000}
    counts = {d: config.resolve(table, d) for d in (3, 20, 21, 50, 100, 5000)}
    assert counts == {3: 2000, 20: 2000, 21: 4000, 50: 4000, 100: 8000, 5000: 8000}
    assert config.resolve("100d", 20) == 2000


def test_steps_rescale_the_phases_in_proportion():
    phases = [config.PhaseConfig(steps=s) for s in (100, 300, 600)]
    assert [p.steps for p in rescale(phases, 50)] == [5, 15, 30]
    assert sum(p.steps for p in rescale(phases, 7)) == 7
    assert sum(p.steps for p in rescale(phases, 1)) == 1


def test_a_table_of_paper_yaml_gives_the_papers_points():
    made = config.load("allen_cahn", "paper", {"problem": {"dim": 50}})
    assert plan.Plan.of(made).counts == {"interior": 4000, "boundary": 5000}
    assert made.loss.weights == {"interior": 0.01, "boundary": 1.0}
    assert made.loss.scale == "none" and made.constraint == "soft"


def test_a_solver_brings_options_for_whichever_backbone_is_chosen():
    options = {name: config.load("poisson", "paper", {"backbone": name}).backbone for name in ("mlp", "kan", "metakan")}
    assert options["mlp"] == {"name": "mlp"}
    assert options["kan"] == {"name": "kan", "grid_range": [-1, 1]}
    assert options["metakan"]["meta_init"] == "official"
    given = {"backbone": {"name": "metakan", "meta_init": "linear"}}
    assert config.load("poisson", "paper", given).backbone["meta_init"] == "linear"


def test_source_of_a_user_file_is_found_beside_its_yaml(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom kanpde.problems import Poisson\n"
        "@dataclass(frozen=True)\nclass Mine(Poisson):\n    extra: float = 2.0\n"
    )
    (tmp_path / "mine.yaml").write_text("problem: {name: 'mine.py:Mine', dim: 4, extra: 3}\n")
    problem = problem_of(config.load(str(tmp_path / "mine.yaml")).problem)
    assert (type(problem).__name__, problem.dim, problem.extra) == ("Mine", 4, 3.0)
    with pytest.raises(ConfigError, match="extra"):
        problem_of(config.load(str(tmp_path / "mine.yaml"), sets=["problem.extr=1"]).problem)
    with pytest.raises(ConfigError, match="Mine"):
        problem_of(config.load(str(tmp_path / "mine.yaml"), sets=["problem.name=mine.py:Mone"]).problem)


@pytest.mark.parametrize("dim, steps", [(999, 3000), (1000, 300)])
def test_the_default_solver_is_that_of_the_dimension(dim, steps):
    assert config.load("poisson", overrides={"problem": {"dim": dim}}).steps == steps
    assert config.load("poisson", sets=[f"problem.dim={dim}"]).steps == steps
    assert configuration(Poisson(dim), {}).steps == steps


def test_a_solver_that_is_named_stays_in_any_dimension():
    assert config.load("poisson", "default", {"problem": {"dim": 5000}}).steps == 3000
    assert configuration(Poisson(5000), {"solver": "adam"}).start == "network"


def test_a_weight_may_depend_on_the_dimension():
    narrow = ["backbone.widths=[2]"]
    weight = lambda dim: resolve("poisson", "high_dim", {"problem": {"dim": dim}}, narrow).loss.weights["gradient"]
    assert (weight(1000), weight(10_000), weight(10_001)) == (3, 3, 30)
    with pytest.raises(ConfigError, match=r"loss.weights.gradient.10: given -1"):
        config.load("poisson", sets=["loss.weights.gradient={10: -1}"])


@pytest.mark.parametrize("given", [{"compile": True}, {"operator": {"name": "forward", "compile": True}}])
def test_an_old_torch_does_not_compile(monkeypatch, given):
    """Neither by itself nor where it is told to, which is one line."""
    monkeypatch.setattr(forward, "COMPILE_SINCE", (99, 1))
    assert not plan.compiles.__wrapped__("cpu")
    with pytest.raises(ConfigError, match=r"compile: given true, needed is torch 99\.1 or newer, here is "):
        planned(Poisson(4), {"solver": "adam", **given})


@pytest.mark.parametrize(
    "dim, given, compiled",
    [
        (100, {"steps": 3000}, True),
        (100, {"steps": 2999}, False),
        (100, {"backbone": "metachebykan"}, False),
        (100, {"backbone": "gramkan", "loss": {"gradient": "none"}}, True),
        (100, {"backbone": "metafourierkan"}, True),
        (10_001, {"solver": "default"}, False),
        (100, {"phases": [{"optimizer": "gauss_newton", "steps": 4000}]}, False),
    ],
)
def test_auto_compiles_where_it_pays(monkeypatch, dim, given, compiled):
    monkeypatch.setattr(plan, "COMPILE_FROM", 3000)
    monkeypatch.setattr(plan, "compiles", lambda device: True)
    assert configuration(Poisson(dim), given).compile is compiled


def test_what_solvers_set_for_a_backbone():
    of = lambda backbone, **given: config.load("poisson", overrides={"backbone": backbone, **given}).backbone
    assert of("metakan")["meta_init"] == "sine" and "meta_init" not in of("kan")
    assert of({"name": "metakan", "meta_init": "linear"})["meta_init"] == "linear"
    far = [of(name, problem={"dim": 1000}) for name in ("kan", "metakan", "legendrekan")]
    assert all(options["centred"] and options["grid_range"] == "frame" for options in far)
