"""The problems of low dimension: statements, closed forms, references and the files that run them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import F64, call

from benchmarks.accuracy import references
from kanpde import Run, config
from kanpde.domains import Surface
from kanpde.ground.samplers import stream
from kanpde.jets.nested import nested
from kanpde.problems import LOW_DIM, PROBLEMS
from kanpde.testing import check_problem

CLOSED = [name for name, kind in LOW_DIM.items() if kind().has_exact]
SPECTRAL = list(references.EVOLUTIONS)
TINY = ["points.interior=8", "points.validation=10", "points.test=20", "slices.points=3", "slices.volume=0"]


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(config.shipped(f"references/{name}.npz")) as file:
        return dict(file)


@pytest.mark.parametrize("name", LOW_DIM)
def test_problems_agree_with_themselves(name):
    """The closed form has no residual and meets the conditions, by nested differentiation."""
    said = str(check_problem(LOW_DIM[name](), points=16))
    assert ("residual of the exact solution" in said) == (name in CLOSED and name != "inverse_diffusion")
    assert ("exact solution, " in said) == (name in CLOSED and name != "helmholtz")


def test_every_problem_has_a_solution():
    """A closed form, or a reference."""
    shipped = {path.stem for path in config.shipped("references").glob("*.npz")}
    assert set(LOW_DIM) - set(CLOSED) == shipped == set(references.SOLVERS)


@pytest.mark.parametrize(
    "name, options",
    [
        ("burgers", {"nu": 0.1}),
        ("burgers", {"nu": 0.001}),
        ("helmholtz", {"a1": 3, "a2": 2, "k": 5.0}),
        ("advection_diffusion", {"speed": -0.5, "diffusivity": 0.02, "width": 0.2}),
        ("fokker_planck", {"theta": 2.0, "diffusivity": 1.0, "mean": -0.5, "deviation": 1.5}),
        ("black_scholes", {"strike": 2.0, "rate": 0.1, "volatility": 0.4, "time": 2.0}),
        ("elasticity", {"poisson": 0.0, "size": 2.5}),
    ],
)
def test_closed_forms_hold_for_other_options(name, options):
    check_problem(LOW_DIM[name](**options), points=16)


def test_the_unknown_coefficient_is_that_of_the_observations():
    problem = LOW_DIM["inverse_diffusion"]()
    x = problem.domain.interior(16, stream(0, "test"), dtype=F64)
    u = {index: nested(problem.exact, x, [index])[index] for index in ((0,), (0, 0))}
    a, a_x = 2 + 3 * x[:, 0], 3
    torch.testing.assert_close(-a * u[0, 0] - a_x * u[(0,)], problem.source(x))
    x, seen = problem.seen
    assert (seen - problem.exact(x)).std().item() == pytest.approx(problem.noise, rel=0.2)


def test_mass_of_the_density():
    problem = LOW_DIM["fokker_planck"]()
    x = torch.linspace(*problem.domain.space.sides[0], 2001, dtype=F64)
    for t in (0.0, 0.3, 1.0):
        mass = torch.trapezoid(problem.exact(torch.stack([x, torch.full_like(x, t)], 1)), x)
        assert mass.item() == pytest.approx(1, abs=1e-9)


def test_the_hole_concentrates_the_stress_threefold():
    problem = LOW_DIM["elasticity"]()
    top = torch.tensor([[0.0, 1.0]], dtype=F64)
    n = torch.tensor([[1.0, 0.0]], dtype=F64)
    torch.testing.assert_close(problem.pull(top, n), 3 * n)


@pytest.mark.parametrize("nu", [0.02, 0.05])
def test_burgers_is_what_a_spectral_method_finds(nu):
    steps = references.Evolution(
        *(-1.0, 1.0, 1.0, lambda x: -np.sin(np.pi * x), lambda ik: nu * ik**2, references.burgers_like(1.0)),
        *(512, 1000, (64, 4)),
    ).solve()
    x = torch.cartesian_prod(*(torch.from_numpy(steps[name]) for name in "xt"))
    u = LOW_DIM["burgers"](nu=nu).exact(x)
    assert (u - torch.from_numpy(steps["u"]).reshape(-1)).abs().max() < 1e-9


# ---------------------------------------------------------------------------------------------------------------
# References


@pytest.mark.parametrize("name", references.SOLVERS)
def test_references_are_small_and_said_to_be_accurate(name):
    path, found, problem = config.shipped(f"references/{name}.npz"), reference(name), LOW_DIM[name]()
    assert path.stat().st_size < 150_000 and found["difference"] < 2e-4
    shape = tuple(len(found[axis]) for axis in problem.coordinates)
    assert set(found) == {*problem.coordinates, *problem.fields, "difference"}
    assert all(found[field].shape == shape and np.isfinite(found[field]).all() for field in problem.fields)
    assert f"`{name}.npz`" in config.shipped("references/README.md").read_text()


@pytest.mark.parametrize("name", SPECTRAL)
def test_references_begin_with_the_initial_values_and_are_periodic(name):
    found, problem = reference(name), LOW_DIM[name]()
    (low, high), time = problem.domain.space.sides[0], problem.domain.time
    assert found["x"][[0, -1]] == pytest.approx([low, high]) and found["t"][[0, -1]] == pytest.approx([0, time])
    points = torch.from_numpy(found["x"]).unsqueeze(1)
    points = torch.cat([points, torch.zeros_like(points)], 1)
    for field in problem.fields:
        assert np.array_equal(found[field][0], found[field][-1])
        (value,) = [c.value for c in problem.asked.values() if c.kind == "initial" and c.field in (None, field)]
        value = value(points).numpy() if callable(value) else value
        assert np.abs(found[field][:, 0] - value).max() < 1e-12


# by how much a residual of the differences of a reference may differ from zero, beside its largest term
TOLERANCES = {"allen_cahn_1d": 1e-4, "kdv": 1e-4, "kuramoto_sivashinsky": 2e-2, "schroedinger": 3e-3}


@pytest.mark.parametrize("name", SPECTRAL)
def test_references_satisfy_the_residual_of_the_class(name):
    """Derivatives in x by Fourier series, in t by differences of sixth order; the class's own residual reads them."""
    found, problem = reference(name), LOW_DIM[name]()
    x, t = (torch.from_numpy(found[axis]) for axis in "xt")
    jets = {field: derivatives(found[field], x[-1] - x[0], t[1] - t[0]) for field in problem.fields}
    columns = slice(4, len(t) // 2) if name == "kuramoto_sivashinsky" else slice(4, -4)  # later chaos is too fast
    at = torch.cartesian_prod(x[:-1], t[columns])
    parts = {f: {k: d[:, columns].reshape(-1) for k, d in of.items()} for f, of in jets.items()}
    read = next(iter(parts.values())) if len(parts) == 1 else None
    u = Jetlike(read) if read else type("Fields", (), {f: Jetlike(of) for f, of in parts.items()})()
    residual = problem.residual(u, at)

    size = max(of["t"].abs().max() for of in parts.values())
    assert residual.abs().square().mean().sqrt() < TOLERANCES[name] * size


class Jetlike:
    """Derivatives by name."""

    def __init__(self, parts):
        self.parts = parts

    def __getattr__(self, name):
        return self.parts[name]


def derivatives(u: np.ndarray, length, step) -> dict[str, torch.Tensor]:
    """value, t, x ... xxxx of a periodic function at all points but those of the right end."""
    u = u[:-1]
    ik = 2j * np.pi / float(length) * np.fft.fftfreq(len(u), 1 / len(u))[:, None]
    ik[len(u) // 2] = 0  # of odd derivatives it is no number
    found = {"x" * k: np.fft.ifft(ik**k * np.fft.fft(u, axis=0), axis=0).real for k in range(1, 5)}
    of_t = sum(c * (np.roll(u, -k, 1) - np.roll(u, k, 1)) for k, c in ((1, 45), (2, -9), (3, 1))) / (60 * float(step))
    return {name: torch.from_numpy(d) for name, d in {"value": u, "t": of_t, **found}.items()}


@pytest.mark.parametrize("name", SPECTRAL)
def test_the_script_makes_them(name):
    """With fewer points and steps: what it finds early on is what is shipped, up to the edge of the initial value."""
    found, solver = reference(name), references.EVOLUTIONS[name]
    every = solver.kept[1] // 5
    few = replace(solver, points=512, time=solver.time / 5, steps=20 * every, kept=(64, 1)).solve()
    for field in solver.fields:
        gap = np.abs(few[field][:, -1] - found[field][:: solver.kept[0] // 64, every])
        assert np.median(gap) < 1e-5 and gap.max() < 1e-3, field


def test_the_cavity_at_a_lower_degree():
    found, few = reference("cavity"), references.LidDriven(degree=16).solve()
    for field in ("u", "v"):
        assert np.abs(few[field] - found[field]).max() < 1e-2 and np.abs(few[field] - found[field]).mean() < 1e-3
    assert abs(found["p"].mean()) < 1e-3


def test_the_flow_of_the_cavity_is_free_of_sources():
    """What flows through lines across is nothing, as the walls are closed."""
    found = reference("cavity")
    assert np.abs(found["u"].mean(1)).max() < 1e-3 and np.abs(found["v"].mean(0)).max() < 1e-3


def test_the_part_is_that_of_the_script(tmp_path):
    path = config.shipped("references/bracket.stl")
    references.bracket().save(tmp_path / "part.stl")
    shipped, made = Surface(path), Surface(tmp_path / "part.stl")
    assert path.stat().st_size < 50_000
    assert (
        shipped.volume
        == pytest.approx(made.volume)
        == pytest.approx(0.3 * (0.64 - 24 / 2 * 0.12**2 * np.sin(np.pi / 12)))
    )
    inside = torch.tensor([[0.2, 0.8, 0.1], [0.7, 0.2, 0.1], [0.7, 0.7, 0.1]])
    assert shipped.contains(inside).tolist() == [True, False, False]


# ---------------------------------------------------------------------------------------------------------------
# The files


def test_there_is_a_file_for_each():
    """Its first line names the problem, and nothing else in it is of the problem."""
    for name in LOW_DIM:
        path = config.library("problems") / f"{name}.yaml"
        assert path.read_text().splitlines()[0] == f"problem: {{name: {name}}}"
        assert config.load(name).problem == {"name": name}


@pytest.mark.parametrize("name", LOW_DIM)
def test_files_are_understood_and_run(name, tmp_path, monkeypatch, capsys, no_pictures):
    """Two steps on few points, and the result is opened again."""
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "solve", name, "--dry-run")
    assert code == 0 and not list(tmp_path.iterdir()), err
    assert f"problem   {name}, d = " in out
    boundary = config.load(name).points.boundary
    sets = [*TINY, *(["points.boundary=8"] if boundary else [])]
    args = [word for assignment in sets for word in ("--set", assignment)]
    code, _, err = call(capsys, "solve", name, "--steps", 2, "--quiet", "--no-verify", *args, "--out", "a.h5")
    assert code == 0 or "the run ended worse than it began" in err, err  # two steps on few points
    run = Run.open("a.h5")
    at = LOW_DIM[name]().domain.interior(3, stream(0, "test"), "volume", dtype=F64)
    assert run.attrs["status"] == ("diverged" if code else "finished") and len(run.load_model()(at)) == 3


def test_the_dimension_is_not_an_option(capsys):
    code, _, err = call(capsys, "solve", "burgers", "--dim", 4, "--dry-run")
    assert code == 2 and "dim: given 4" in err and len(err.splitlines()) == 1


def test_a_part_lies_beside_the_file_that_names_it(tmp_path):
    references.bracket().save(tmp_path / "mine.stl")
    (tmp_path / "p.yaml").write_text("problem: {name: stl_diffusion, part: mine.stl}\n")
    assert config.load(tmp_path / "p.yaml").problem["part"] == str(tmp_path / "mine.stl")


def test_they_are_listed_with_their_equations(capsys):
    _, out, _ = call(capsys, "list")
    text = " ".join(out.split())
    assert all(name in text for name in LOW_DIM) and set(LOW_DIM) < set(PROBLEMS)
    assert all(kind().title.endswith((".", ":")) or len(kind().title) < 120 for kind in LOW_DIM.values())


def test_a_result_is_named_by_what_there_is(tmp_path, monkeypatch, capsys, no_pictures):
    """Of a problem of one dimension alone the name has none."""
    monkeypatch.chdir(tmp_path)
    args = [word for assignment in TINY for word in ("--set", assignment)]
    call(capsys, "solve", "stokes", "--steps", 1, "--quiet", "--no-verify", *args)
    assert [path.name for path in sorted((tmp_path / "runs").glob("*.h5"))] == ["stokes-chebykan-seed0.h5"]
