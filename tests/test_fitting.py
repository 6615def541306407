"""Function fitting: the rows are what they are said to be, a model keeps their units, and a fit goes on exactly."""

from functools import cache
from math import asin, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import F64, call, close, generator, interrupt_after, one_line, planned, points
from torch import nn

import kanpde
from kanpde import Run, backbones
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Affine, Jet
from kanpde.jets.names import Coordinates, Reads
from kanpde.kan.sparsity import edge_sizes, sparsity
from kanpde.operators import Autograd, Forward
from kanpde.problems import Data, Feynman, Function, HighDimFunction, Poisson
from kanpde.problems.fitting import Units
from kanpde.records import columns
from kanpde.runs import folds
from kanpde.runs.predict import predict
from kanpde.training.evaluation import Evaluator
from kanpde.training.loop import ResidualTraining
from kanpde.training.losses import Loss
from kanpde.training.objective import Objective

AWKWARD = ("Temp (C)", "p [Pa]", "const", "count", "Flow, total")
LM = {"optimizer": "gauss_newton", "options": {"damping": 0.1}}
ADAM = {"optimizer": "adam", "lr": 1e-2}
WIDE = {"name": "kan", "widths": [3], "grid_size": 4, "hidden_range": [-8.0, 8.0]}


def table(path: Path, n: int = 60, seed: int = 0) -> Path:
    """A smooth function of two of four inputs on awkward scales, one of which never varies."""
    r = np.random.default_rng(seed)
    t, p, k = r.uniform(-20, 60, n), r.uniform(0.9e6, 1.4e6, n), r.integers(0, 5, n)
    y = 1e6 * (2 + 0.01 * t + 0.3 * np.sin(p / 1e5))
    columns.write(path, dict(zip(AWKWARD, (t, p, np.full(n, 7.0), k, y), strict=True)))
    return path


def fit(out: Path, problem=None, phases=None, solver="fit", **options) -> Run:
    phases = phases or [{**LM, "steps": 4}]
    given = {"backbone": {"name": "kan", "widths": [3], "grid_size": 4}, "evaluation": {"every": 5}, **options}
    if not isinstance(problem, Data):
        given = {"points": {"interior": 80, "validation": 40, "test": 60}, **given}
        given.setdefault("slices", {"points": 5, "volume": 0})
    return kanpde.train(problem or Function(), out=out, solver=solver, phases=phases, **given)


# Affine ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["mlp", "kan"])
def test_affine_in_the_jet_equals_autograd(body):
    class Full:  # coefficients and a direction, as an operator asks a problem for them
        reads, n_inputs, axes = Reads(grad_sq=True), 3, Coordinates(3)
        factor = lift = staticmethod(lambda x: None)
        inputs_of = staticmethod(lambda x: x)
        s_grad = staticmethod(lambda x: None)
        coefficients = staticmethod(lambda x: torch.tensor([1.0, 2.0, 0.5], dtype=F64))
        directions = staticmethod(lambda x: torch.tensor([[1.0, -1.0, 3.0]], dtype=F64))

    ends = Affine(torch.tensor([2.0, 0.5, -3.0], dtype=F64), torch.tensor([0.1, -0.2, 0.05], dtype=F64))
    last = Affine(torch.tensor([7.0], dtype=F64), torch.tensor([-2.0], dtype=F64))
    inner = backbones.build(body, 3, 1, widths=(4, 4), generator=generator()).double()
    u, x = Ansatz(Full(), nn.Sequential(ends, *inner, last)), points(5, 3, reach=0.25)
    ours, theirs = Forward()(u, x), Autograd()(u, x)
    for name in ("value", "along", "lap", "grad_sq"):
        close(getattr(ours, name), getattr(theirs, name), 1e-10, name)


# Samples and units -------------------------------------------------------------------------------------------------


def test_rows_are_by_the_seed_of_the_sample_and_not_of_the_run():
    rows = lambda seed, run: Function(seed=seed).domain.interior(50, generator(run), dtype=F64)
    held = lambda seed, run, name: Function(seed=seed).domain.held_out(name, 0, 50, generator(run))
    assert torch.equal(rows(0, 1), rows(0, 2)) and not torch.equal(rows(0, 1), rows(1, 1))
    assert rows(0, 1).shape == (50, 3) and torch.equal(rows(0, 1)[:, 2], rows(0, 1)[:, 0] * rows(0, 1)[:, 1])
    seen = {tuple(row) for row in rows(0, 1).tolist()}
    for name in ("validation", "test"):
        assert not seen & {tuple(row) for row in held(0, 1, name).tolist()}, "a row was held out and trained on"


@pytest.mark.parametrize("sequence", ["random", "sobol"])
def test_arcsine_points_are_denser_towards_the_faces_and_test_points_are_uniform(sequence):
    """In each variable P(x < low + t (high - low)) = 2 / pi arcsin(sqrt(t)); density 1 / (pi sqrt(t (1 - t)))."""
    domain = Function(formula="x+y", ranges={"x": (1.0, 3.0), "y": (-5.0, 0.0)}).domain
    share = lambda x, t: ((x[:, :2] - torch.tensor([1.0, -5.0])) / torch.tensor([2.0, 5.0]) < t).double().mean(0)
    x = domain.interior(4096, torch.Generator(), "arcsine", sequence, torch.float64)
    uniform = domain.held_out("test", 0, 4096, torch.Generator(), "arcsine")
    validation = domain.held_out("validation", 0, 4096, torch.Generator(), "arcsine")
    for t in (0.01, 0.1, 0.5, 0.95):
        expected = 2 / pi * asin(sqrt(t))
        assert share(x, t).tolist() == pytest.approx([expected] * 2, abs=0.03)
        assert share(validation, t).tolist() == pytest.approx([expected] * 2, abs=0.03)
        assert share(uniform, t).tolist() == pytest.approx([t] * 2, abs=0.03)
    with pytest.raises(ValueError, match="'radial' is not one of volume, arcsine"):
        domain.interior(2, torch.Generator(), "radial", sequence)


def test_the_validation_loss_weighs_its_points():
    problem = Function(formula="a*b**3", ranges={"a": (-1.0, 1.0), "b": (-1.0, 1.0)})
    given = {"dtype": "float64", "backbone": {"widths": [2]}, "points": {"law": "arcsine", "validation": 200}}
    plan = planned(problem, given)
    u = plan.ansatz()
    found = Evaluator(plan, u).validation(Objective(plan, u).values)
    rows = problem.domain.held_out("validation", 0, 256, torch.Generator(), "arcsine")[:200]
    y, w = rows[:, 2], rows[:, 3]
    by_hand = (w * (u(rows) - y).square()).mean() / problem.units.std**2
    assert found == {"interior": pytest.approx(by_hand.item(), rel=1e-10)}


@pytest.mark.parametrize("sequence", ["random", "sobol"])
def test_squares_of_residuals_at_arcsine_points_have_the_mean_over_the_box(sequence):
    """Of u = 0: the mean of y^2 = (x1 x2^3)^2 over [-1, 1]^2 is 1/3 * 1/7; unweighted it is 1/2 * 5/16."""
    problem = Function(formula="a*b**3", ranges={"a": (-1.0, 1.0), "b": (-1.0, 1.0)})
    rows = problem.domain.interior(2**17, torch.Generator(), "arcsine", sequence, F64)
    u = Jet(torch.zeros(len(rows), dtype=F64))
    mean = lambda rows: problem.residual(u, rows).square().mean().item()
    assert mean(rows) == pytest.approx(1 / 21, rel=0.02) and mean(rows[:, :3]) == pytest.approx(5 / 32, rel=0.02)
    assert rows[:, 3].mean().item() == pytest.approx(1, rel=0.01)
    assert problem.domain.interior(8, torch.Generator(), dtype=F64).shape == (8, 3), "uniform points have no weights"


def test_noise_has_its_deviation_and_the_test_has_none():
    clean, noisy = (Function(noise=noise).domain for noise in (0.0, 0.25))
    x, y, std = *noisy.interior(20_000, generator(), dtype=F64).split([2, 1], 1), 1 / 3  # deviation of x y on [-1, 1]^2
    noise = y[:, 0] - x.prod(1)
    assert torch.equal(x, clean.interior(20_000, generator(), dtype=F64)[:, :2])
    assert noise.std().item() == pytest.approx(0.25 * std, rel=0.03) and abs(noise.mean().item()) < 3e-3
    for name, wanted in (("validation", 0.25 * std), ("test", 0.0)):
        rows = noisy.held_out(name, 0, 20_000, generator())
        assert (rows[:, 2] - rows[:, :2].prod(1)).std().item() == pytest.approx(wanted, rel=0.03), name


def test_rows_where_the_formula_is_not_finite_are_drawn_again():
    rows = Function(formula="sqrt(x)", ranges={"x": (-3.0, 1.0)}).domain.interior(500, generator(), dtype=F64)
    assert len(rows) == 500 and rows.isfinite().all() and rows[:, 0].min() >= 0
    with pytest.raises(ConfigError, match="0 have a finite value") as info:
        Function(formula="log(x)", ranges={"x": (-2.0, -1.0)}).domain.interior(5, generator())
    one_line(info)


def test_units_map_the_box_to_minus_one_to_one_and_y_to_deviation_one():
    rows = torch.tensor([[0.0, 5.0, 1e6, 3.0], [1.0, 5.0, 3e6, 5.0], [4.0, 5.0, 2e6, 13.0]], dtype=F64)
    units = Units.of(rows)
    z = units.scaling_inputs()(rows[:, :3])
    close(z[:, [0, 2]], torch.tensor([[-1.0, -1.0], [-0.5, 1.0], [1.0, 0.0]], dtype=F64), 1e-14)
    close(z[:, 1], -torch.ones(3, dtype=F64), 1e-14)
    y = (rows[:, 3:] - units.mean) / units.std
    assert y.mean().abs() < 1e-15 and y.square().mean().item() == pytest.approx(1)
    close(units.scaling_output()(y), rows[:, 3:], 1e-14)
    given = Units.of(rows, torch.zeros(3, dtype=F64), torch.full((3,), 8.0, dtype=F64))
    assert given.scaling_inputs()(torch.full((1, 3), 8.0, dtype=F64)).tolist() == [[1, 1, 1]]


def test_units_of_what_does_not_vary_are_finite():
    units = Units.of(torch.tensor([[1e17, 2.0], [1e17, 2.0]], dtype=F64))
    close(units.scaling_inputs()(torch.tensor([[1e17]], dtype=F64)), -torch.ones(1, 1, dtype=F64), 1e-14)
    assert units.std == 1


def test_loss_is_the_unexplained_share_of_the_variance():
    p = Function(formula="100*x*y + 7", seed=3)
    rows = p.domain.interior(1000, generator(), dtype=F64)
    y = rows[:, 2]
    assert p.residual_scale == pytest.approx(1 / y.std(correction=0).item())
    for shift, share in ((0.0, 1.0), (2.0, 1 + 4 / y.var(correction=0).item())):  # of the mean, and of a worse constant
        u = Ansatz(p, nn.Sequential(nn.Linear(2, 1)).double())
        nn.init.zeros_(u.net[0].weight)
        nn.init.constant_(u.net[0].bias, y.mean().item() + shift)
        terms = Loss().terms(u, Forward(), {"interior": rows}, generator())
        assert terms["interior"].item() == pytest.approx(share)


@pytest.mark.parametrize(
    ("problem", "dim"),
    [(Feynman(), 2), (Feynman(equation="I.8.4", collection="paper"), 4), (HighDimFunction(7, formula="f2"), 7)],
)
def test_formulas_know_their_inputs_ranges_and_values(problem, dim):
    x, y = problem.domain.interior(30, generator(), dtype=F64).split([dim, 1], 1)
    low, high = problem.domain.limits()
    assert problem.dim == len(problem.names) == dim and ((x >= low) & (x <= high)).all()
    close(problem.exact(x), y[:, 0])
    close(problem.exact(torch.cat([x, y + 1], 1)), y[:, 0] + 1)  # what was observed, not the formula


@pytest.mark.parametrize(("name", "at_half"), [("f1", 1.6487212707), ("f2", 0.375 * 5), ("f3", 0.7788007831)])
def test_high_dimensional_functions_by_hand(name, at_half):
    """At x_i = 1/2, d = 5: exp(1/2), 5 (1/4 + 1/8), exp(-1/4)."""
    assert HighDimFunction(5, formula=name).exact(torch.full((1, 5), 0.5, dtype=F64)).item() == pytest.approx(at_half)


# Tables ------------------------------------------------------------------------------------------------------------


def keys(rows: torch.Tensor) -> list:
    return sorted(map(tuple, rows.tolist()))


def test_parts_of_a_table_are_disjoint_and_all_of_it_by_seed(tmp_path):
    path = str(table(tmp_path / "t.csv"))
    parts = Data(file=path).domain.parts
    everything = np.stack(list(columns.read(path).values()), 1)
    assert keys(torch.cat(list(parts.values()))) == keys(torch.from_numpy(everything))
    assert {name: len(rows) for name, rows in parts.items()} == {"interior": 43, "validation": 5, "test": 12}
    same, other = Data(file=path).domain.parts, Data(file=path, seed=1).domain.parts
    assert torch.equal(parts["test"], same["test"]) and keys(parts["test"]) != keys(other["test"])


def test_folds_partition_the_rows(tmp_path):
    path = str(table(tmp_path / "t.csv", 23))
    found = [Data(file=path, folds=4, fold=i).domain.parts for i in range(4)]
    assert [len(parts["test"]) for parts in found] == [6, 6, 6, 5]
    everything = keys(torch.cat([parts["test"] for parts in found]))
    assert everything == keys(torch.from_numpy(np.stack(list(columns.read(path).values()), 1)))
    for parts in found:
        assert keys(torch.cat(list(parts.values()))) == everything


def test_a_file_of_test_rows(tmp_path):
    train, test = table(tmp_path / "a.csv", 30), table(tmp_path / "b.csv", 7, seed=1)
    parts = Data(file=str(train), test=str(test), validation=0.0).domain.parts
    assert keys(parts["test"]) == keys(torch.from_numpy(np.stack(list(columns.read(test).values()), 1)))
    assert len(parts["interior"]) == 30 and torch.equal(parts["interior"], parts["validation"])


def test_shares_of_one_row_leave_it_to_the_training(tmp_path):
    parts = Data(file=str(table(tmp_path / "t.csv", 6))).domain.parts
    assert len(parts["interior"]) == 6 and torch.equal(parts["test"], parts["interior"])


def test_columns_chosen_and_rows_with_missing_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,name,c\n" + "".join(f"{i},{'' if i % 5 == 0 else i * i},n{i},{-i}\n" for i in range(20)))
    given = {"file": str(path), "inputs": ("c", "b"), "output": "a"}
    with pytest.raises(ConfigError, match="4 of 20 rows lack a number; problem.missing: drop") as info:
        _ = Data(**given).domain
    one_line(info)
    p = Data(**given, missing="drop", test=0.0, validation=0.0)
    rows = p.domain.parts["interior"]
    assert len(rows) == 16 and (rows[:, 0] == -rows[:, 2]).all() and (rows[:, 1] == rows[:, 2] ** 2).all()
    assert (p.dim, list(p.names)) == (2, ["c", "b"])
    assert torch.equal(
        Data(**{**given, "inputs": ("c",)}, test=0.0, validation=0.0).domain.parts["test"][:, 0] * -1,
        Data(**{**given, "inputs": ("c",)}, test=0.0, validation=0.0).domain.parts["test"][:, 1],
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inputs": ("Temp",)}, r"did you mean Temp \(C\)"),
        ({"output": "Flow"}, "did you mean Flow, total"),
        ({"inputs": ("const", "Flow, total")}, "needed are columns but Flow, total"),
        ({"folds": 3, "fold": 3}, "given 3, needed is 0 to 2"),
        ({"folds": 3, "test": "t.csv"}, "rows of a fold"),
        ({"folds": 40}, "fold 0 of 40 has 1 rows"),
        ({"dim": 3}, "given 3, this function has 4 inputs"),
        ({"test": "one.csv"}, "has 1 rows to test on"),
        ({"file": "one.csv"}, "leaves 1 rows"),
        ({"file": "none.csv"}, "no such file"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_one_line(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    table(Path("t.csv"), 40)
    table(Path("one.csv"), 1)
    with pytest.raises(ConfigError, match=says) as info:
        _ = Data(**{"file": "t.csv", **options}).domain
    one_line(info)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Feynman(equation="I.12.55"), "did you mean I.12.5"),
        (lambda: Feynman(dim=3), "given 3, this function has 2 inputs; leave dim out"),
        (lambda: Function(formula="x*z"), "'z'"),
        (lambda: Function(ranges={"x": (1.0, 1.0), "y": (0.0, 1.0)}), r"x: given \[1, 1\], needed is low < high"),
    ],
)
def test_formulas_that_do_not_fit_are_refused_in_one_line(make, says):
    with pytest.raises(ConfigError, match=says) as info:
        make()
    one_line(info)


# Runs --------------------------------------------------------------------------------------------------------------


RESUMED = {
    "refinement": {"phases": [{**LM, "steps": 10}, {**LM, "steps": 10, "grid_size": 8}]},
    "a higher degree": {
        "backbone": {"name": "chebykan", "widths": [3], "degree": 3},
        "phases": [{**LM, "steps": 10}, {**LM, "steps": 10, "degree": 6}],
    },
    "refinement in the first phase": {"phases": [{**LM, "steps": 10, "grid_size": 8}, {**ADAM, "steps": 10}]},
    "meta, two refinements, average": {
        "backbone": {"name": "metakan", "widths": [3], "grid_size": 3, "meta_hidden": 8},
        "phases": [{**ADAM, "steps": 9}, {**ADAM, "steps": 5, "grid_size": 6}, {**ADAM, "steps": 6, "grid_size": 12}],
        "average": 0.9,
    },
    "mini-batches, sparsity": {
        "phases": [{**ADAM, "steps": 12}, {"optimizer": "lbfgs", "steps": 8, "lr": 1.0}],
        "points": {"interior": 20, "refresh": 1},
        "loss": {"sparsity": {"l1": 1e-3}},
    },
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The table and the whole run of a case, once for all its stops."""

    @cache
    def made(case):
        folder = tmp_path_factory.mktemp("whole")
        p = Data(file=str(table(folder / "t.csv")))
        return p, fit(folder / "whole.h5", p, **RESUMED[case])

    return made


@pytest.mark.parametrize("stop_at", [7, 10, 16])
@pytest.mark.parametrize("case", RESUMED, ids=list(RESUMED))
def test_a_fit_of_a_table_goes_on_bit_for_bit(tmp_path, case, stop_at, monkeypatch, uninterrupted):
    p, whole = uninterrupted(case)
    interrupt_after(monkeypatch, stop_at)
    part = fit(tmp_path / "part.h5", p, **RESUMED[case])
    assert part.attrs["status"] == "interrupted" and part.attrs["steps"] == stop_at
    monkeypatch.undo()
    done = kanpde.resume(part.path)
    ours, theirs = (torch.load(run.checkpoint, weights_only=True) for run in (done, whole))
    assert all(torch.equal(weight, ours["weights"][name]) for name, weight in theirs["weights"].items())
    assert str(ours["best"]) == str(theirs["best"]) and ours["best"]["step"] > 0
    for name in ("loss", "rmse", "validation"):
        assert np.array_equal(done.history[name], whole.history[name], equal_nan=True)
    assert np.array_equal(done.field["u"], whole.field["u"])


def test_a_run_does_not_go_on_with_another_table(tmp_path, monkeypatch):
    path = table(tmp_path / "t.csv")
    interrupt_after(monkeypatch, 4)
    part = fit(tmp_path / "part.h5", Data(file=str(path)), phases=[{**ADAM, "steps": 8}])
    monkeypatch.undo()
    whole = path.read_text()
    path.write_text(whole[: whole.rstrip().rindex("\n") + 1])  # less a row
    with pytest.raises(ConfigError, match="trained on other rows; restore the table"):
        kanpde.resume(part.path)
    path.write_text(whole)
    assert kanpde.resume(part.path).attrs["status"] == "finished"


@pytest.mark.parametrize("backbone", ["kan", "metakan"])
def test_best_weights_of_an_earlier_phase_survive_the_refinement(tmp_path, backbone):
    """A second phase that only spoils the fit: the best weights are the old function on the new grid.

    Hidden grids are wide: beyond a grid splines fade within k intervals, which become shorter.
    """
    seen = {}

    def keep(state):
        if state.step == 10:
            seen["u"] = state.u(torch.from_numpy(rows)).detach().numpy().copy()

    p = Function()
    rows = p.domain.held_out("test", 0, 50, generator()).numpy()
    spoiled = {"optimizer": "adam", "lr": 0.5, "steps": 10, "grid_size": 8}
    given = {"backbone": {**WIDE, "name": backbone}, "phases": [{**LM, "steps": 10}, spoiled]}
    run = fit(tmp_path / "run.h5", p, on_evaluation=keep, **given)
    assert run.attrs["best_step"] == 10 and run.history["rmse"][-1] > run.attrs["rmse_best"]
    u = Run.open(run.path).load_model()
    assert all(layer.basis.grid_size == 8 for layer in u.net if hasattr(layer, "basis"))
    assert np.allclose(u(torch.from_numpy(rows)).detach().numpy(), seen["u"], rtol=1e-9, atol=1e-9)
    last = Run.open(run.path).load_model(best=False)
    assert not np.allclose(last(torch.from_numpy(rows)).detach().numpy(), seen["u"], atol=1e-2)


def test_a_finer_grid_leaves_the_function_as_it_is(tmp_path):
    """The first row after the refinement, by an optimiser that does not move, is the last row before it."""
    still = {"optimizer": "adam", "lr": 0.0, "steps": 5, "grid_size": 8}
    run = fit(tmp_path / "run.h5", phases=[{**LM, "steps": 5}, still], backbone=WIDE)
    assert run.history["rmse"][2] == pytest.approx(run.history["rmse"][1], rel=1e-8)
    assert run.history["rmse"][1] < 0.3 * run.history["rmse"][0]


def test_best_weights_that_lose_by_a_move_of_the_grids_make_way_for_others(tmp_path, monkeypatch):
    """Their score is that of what they have become, else weights that are better by then would never be kept."""
    scores = []
    loss_of = lambda self, u: (scores.append(u is self.tested), {"interior": 1.0 + len(scores)})[1]
    monkeypatch.setattr(ResidualTraining, "validation", loss_of)
    run = fit(
        tmp_path / "run.h5",
        phases=[{**LM, "steps": 2}, {**LM, "steps": 2, "update_grid": True}],
        evaluation={"every": 2},
    )
    # at 0, at 2, the best one after the move, at 4, which is the end: each worse than the one before
    assert scores == [True, True, False, True]
    assert torch.load(run.checkpoint, weights_only=True)["best"]["terms"] == {"interior": 4.0}


def test_a_run_that_ends_before_its_first_step_goes_on_though_its_first_phase_refines(tmp_path):
    def fail(state):
        raise RuntimeError("mine")

    phases = [{**LM, "steps": 5, "grid_size": 8}]
    with pytest.raises(RuntimeError, match="mine"):
        fit(tmp_path / "run.h5", phases=phases, on_step=fail)
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == 0
    assert Run.open(tmp_path / "run.h5").load_model()(torch.zeros(1, 2, dtype=F64)).isfinite()
    done, whole = kanpde.resume(tmp_path / "run.h5"), fit(tmp_path / "whole.h5", phases=phases)
    assert np.array_equal(done.field["u"], whole.field["u"])


@pytest.mark.parametrize(
    ("phases", "backbone", "says"),
    [
        ([{**LM, "steps": 2}, {**LM, "steps": 2, "grid_size": 3}], "kan", "becomes finer from phase to phase"),
        ([{**LM, "steps": 2}, {**LM, "steps": 2, "degree": 3}], "chebykan", "degree: a basis becomes finer"),
        ([{**LM, "steps": 2, "grid_size": 9}], "fastkan", "fastkan has no basis that can be refined"),
        ([{**LM, "steps": 2, "grid_size": 9}], "chebykan", "grid_size: chebykan is refined by degree"),
        ([{**LM, "steps": 2, "degree": 9, "grid_size": 9}], "kan", "given grid_size and degree; a basis has one"),
    ],
)
def test_grids_that_cannot_be_refined_are_refused(tmp_path, phases, backbone, says):
    with pytest.raises(ConfigError, match=says) as info:
        fit(tmp_path / "run.h5", phases=phases, backbone={"name": backbone, "widths": [3]})
    one_line(info)
    assert list(tmp_path.iterdir()) == []


def test_a_model_predicts_without_its_table_in_the_units_of_the_data(tmp_path):
    """The run alone, the table deleted: predictions are u(x), close to the observations, and know their range."""
    path = table(tmp_path / "t.csv", 200)
    run = fit(tmp_path / "run.h5", Data(file=str(path)), phases=[{**LM, "steps": 15}])
    path.unlink()
    found, off = predict(Run.open(run.path), table(tmp_path / "new.csv", 5000, seed=1))
    x = torch.from_numpy(np.stack([columns.read(tmp_path / "new.csv")[name] for name in AWKWARD[:4]], 1))
    with torch.no_grad():
        u = Run.open(run.path).load_model()(x).numpy()
    assert list(found) == [*AWKWARD, "Flow, total_predicted"]
    assert np.array_equal(found["Flow, total_predicted"], u)
    y = found["Flow, total"].astype(float)
    inside = (x[:, 0].sub(20).abs() < 35) & (x[:, 1].sub(1.15e6).abs() < 0.2e6)
    assert 1e6 < y.min() and np.sqrt(np.mean((u - y)[inside.numpy()] ** 2)) < 0.02 * y.std()
    assert 0 < off < 0.1
    assert run.attrs["rmse_best"] == pytest.approx(np.sqrt(np.mean(run.field["error"] ** 2)))
    with pytest.raises(ConfigError, match="no such file"):
        kanpde.resume(run.path, steps=30)


def test_off_range_is_the_share_of_rows_outside_the_training_rows(tmp_path):
    train = tmp_path / "t.csv"
    train.write_text("a,b\n" + "".join(f"{1000 + i},{i}\n" for i in range(11)))
    run = fit(tmp_path / "run.h5", Data(file=str(train), test=0.0, validation=0.0), phases=[{**LM, "steps": 1}])
    new = tmp_path / "new.csv"
    new.write_text("a\n1000\n1010\n999.9\n1010.1\n")
    found, off = predict(run, new)
    assert off == 0.5 and list(found) == ["a", "b"] and len(found["b"]) == 4


def test_predictions_of_a_formula_and_of_a_pde(tmp_path):
    run = fit(tmp_path / "f.h5", Function(formula="p*q", ranges={"q": (0.0, 2.0), "p": (1.0, 3.0)}))
    np.savez(tmp_path / "t.npz", p=np.array([1.0, 2.0]), q=np.array([2.0, 0.5]), spare=np.zeros(2))
    found, off = predict(Run.open(run.path), tmp_path / "t.npz")
    expected = run.load_model()(torch.tensor([[2.0, 1.0], [0.5, 2.0]], dtype=F64)).detach().numpy()
    assert list(found) == ["p", "q", "spare", "u"] and np.array_equal(found["u"], expected) and off == 0
    small = {"points": {"interior": 10, "test": 50, "validation": 20}, "slices": {"points": 3, "volume": 0}}
    pde = kanpde.train(Poisson(3), out=tmp_path / "p.h5", solver="adam", steps=1, backbone="mlp", **small)
    np.savez(tmp_path / "x.npz", x=np.full((4, 3), 0.1))
    assert list(predict(pde, tmp_path / "x.npz")[0]) == ["x1", "x2", "x3", "u"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("backbone", "share"), [("mlp", 0.05), ("kan", 0.05), ("metakan", 0.5), ("fastkan", 0.05)])
def test_backbones_fit_a_table_of_awkward_scales(tmp_path, backbone, share, dtype):
    p = Data(file=str(table(tmp_path / "t.csv", 300)))
    run = fit(tmp_path / "run.h5", p, [{**LM, "steps": 12}], backbone={"name": backbone, "widths": [5]}, dtype=dtype)
    y = run.field["u_exact"]
    assert run.attrs["rmse_best"] < share * y.std() and run.attrs["fits"]


def test_mini_batches_of_a_table(tmp_path):
    p = Data(file=str(table(tmp_path / "t.csv", 1000)))
    given = {"points": {"interior": 64, "refresh": 1}, "evaluation": {"every": 100}, "dtype": "float32"}
    seen = []
    note = lambda state: seen.append(state.loss) and None
    run = fit(tmp_path / "run.h5", p, [{**ADAM, "steps": 300}], on_step=note, **given)
    assert run.history["rmse"][-1] < 0.2 * run.history["rmse"][0] and len(set(seen[:5])) == 5
    rows = p.domain.interior(64, stream(0, "a"))
    assert len({tuple(row) for row in rows.tolist()}) == 64


def test_a_table_smaller_than_any_batch_trains(tmp_path):
    p = Data(file=str(table(tmp_path / "t.csv", 12)))
    run = fit(tmp_path / "run.h5", p, points={"interior": 1000, "test": 1000, "validation": 1000})
    assert run.config["points"]["interior"] == 10 and len(run.field["u"]) == 2
    assert torch.equal(p.domain.interior(1000, generator(), dtype=F64), p.domain.parts["interior"])  # in their order


def test_pictures_of_a_fit(tmp_path):
    """Of a formula its slice; of a table, through which there is none, what is observed against what is predicted."""
    from kanpde.plot import main_pictures, parity

    formula, of_table = fit(tmp_path / "f.h5"), fit(tmp_path / "t.h5", Data(file=str(table(tmp_path / "t.csv"))))
    named = lambda run: [path.name for path in main_pictures(Run.open(run.path))]
    assert named(formula) == ["f-convergence.png", "f-error.png", "f-parity.png"]
    assert named(of_table) == ["t-convergence.png", "t-parity.png"]
    top, below = parity(Run.open(of_table.path)).axes
    u, y = of_table.field["u"], of_table.field["u_exact"]
    assert np.array_equal(top.collections[0].get_offsets(), np.stack([y, u], 1))
    assert np.array_equal(below.collections[0].get_offsets(), np.stack([y, u - y], 1))
    assert f"{1 - np.mean((u - y) ** 2) / y.var():.6f}" in top.get_title()
    del of_table.field["u_exact"]
    with pytest.raises(ValueError, match="no u_exact"):
        parity(of_table)


# Sparsity ----------------------------------------------------------------------------------------------------------


def kan(name="kan", widths=(4,), **options) -> nn.Sequential:
    return backbones.build(name, 2, 1, widths=widths, generator=generator(), **options).double()


def test_sizes_of_edges_are_the_deviations_of_their_functions():
    """Edges that are splines of known functions: a constant, and the straight lines s x of deviation s / sqrt(3)."""
    net = kan(widths=(), grid_size=6)
    layer = net[0]
    x = torch.linspace(-1, 1, 400, dtype=F64).unsqueeze(1).expand(-1, 2)
    features = layer.basis.features(x, 0)[0].transpose(0, 1)[..., :-1]
    targets = torch.stack([torch.full_like(x[:, 0], 5.0), 3 * x[:, 0]])
    with torch.no_grad():
        layer.weights.theta.zero_()
        layer.weights.theta[:, :-1, 0] = torch.linalg.lstsq(features, targets.unsqueeze(-1)).solution[..., 0]
    sizes = edge_sizes(layer)
    assert sizes.shape == (2, 1) and sizes[0] < 1e-6
    assert sizes[1].item() == pytest.approx(3 / 3**0.5, rel=0.05)
    total = sparsity(nn.Sequential(layer), 2.0, 0.0).item()
    assert total == pytest.approx(2 * sizes.sum().item())


@pytest.mark.parametrize("sizes", [[1.0, 1.0], [3.0, 1.0], [1.0, 0.0]])
def test_entropy_is_that_of_the_shares(sizes):
    net = kan(widths=())
    with torch.no_grad():
        theta = net[0].weights.theta
        theta.copy_(theta[:1] * torch.tensor(sizes, dtype=F64)[:, None, None])
    p = np.array(sizes) / sum(sizes)
    expected = -sum(q * np.log(q) for q in p if q)
    assert sparsity(net, 0.0, 1.0).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["kan", "metakan", "fastkan"])
def test_gradient_of_sparsity_is_that_of_differences(name):
    net = kan(name)
    parameters = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(sparsity(net, 0.5, 0.7), parameters, allow_unused=True, materialize_grads=True)
    steps = [torch.randn(p.shape, generator=generator(1), dtype=F64) for p in parameters]
    values = []
    for h in (1e-6, -1e-6):
        with torch.no_grad():
            for p, step in zip(parameters, steps, strict=True):
                p += h * step
            values.append(sparsity(net, 0.5, 0.7).item())
            for p, step in zip(parameters, steps, strict=True):
                p -= h * step
    slope = sum((g * s).sum() for g, s in zip(gradients, steps, strict=True)).item()
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5) and abs(slope) > 1e-3


@pytest.mark.parametrize("name", ["mlp", "wavkan"])
def test_sparsity_is_of_edges_that_are_linear_in_their_weights(name):
    with pytest.raises(ValueError, match="KAN layers with a linear basis"):
        sparsity(kan(name), 1.0, 1.0)


def test_gradient_of_an_edge_that_is_gone_is_finite():
    net = kan()
    with torch.no_grad():
        net[0].weights.theta[0] = 0
    gradients = torch.autograd.grad(sparsity(net, 1.0, 1.0), list(net.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(
    "phase",
    [{**ADAM, "lr": 3e-2, "steps": 200}, {"optimizer": "lbfgs", "lr": 1.0, "steps": 40}, {**LM, "steps": 20}],
)
def test_training_with_sparsity_leaves_few_edges(tmp_path, phase):
    """y = sin(3 x) does not read the second input, and needs one of six hidden nodes."""
    large = {}
    for name, loss in (("plain", {}), ("sparse", {"sparsity": {"l1": 1e-2, "entropy": 1e-2}})):
        p = Function(formula="sin(3*x)")
        given = {"backbone": {"name": "kan", "widths": [6]}, "loss": loss, "evaluation": {"every": 1000}}
        run = fit(tmp_path / f"{name}.h5", p, [phase], **given)
        sizes = [edge_sizes(layer) for layer in run.load_model(best=False).net if hasattr(layer, "basis")]
        large[name] = sum((a > 0.05 * a.max()).sum().item() for a in sizes)
        assert run.history["rmse"][-1] < 0.3 * 0.7, name
    assert ("terms/sparsity" in run.history) and large["sparse"] < 0.7 * large["plain"], large


# The command line --------------------------------------------------------------------------------------------------

QUICK = ["--set", "backbone.widths=[3]", "--set", "phases.0.steps=3"]


@pytest.fixture
def folder(tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_solve_predict_and_folds(capsys, folder):
    table(Path("t.csv"), 60)
    code, out, err = call(capsys, "solve", "data", "--set", "problem.file=t.csv", *QUICK, "--out", "r.h5")
    assert (code, err) == (0, "") and "RMSE" in out and "Flow, total of Temp (C)" in out
    lines = Path("t.csv").read_text().splitlines()
    Path("new.csv").write_text(
        "id," + lines[0] + "\n" + "\n".join(f"row {i},{line}" for i, line in enumerate(lines[1:5]))
    )
    code, out, err = call(capsys, "predict", "r.h5", "new.csv")
    assert code == 0 and "4 rows, Flow, total_predicted written to new-predicted.csv" in out
    written = Path("new-predicted.csv").read_text().splitlines()
    assert written[0] == "id," + lines[0] + ',"Flow, total_predicted"'
    assert all(
        w.startswith(f"row {i},{line},") for i, (w, line) in enumerate(zip(written[1:], lines[1:5], strict=True))
    )
    code, out, err = call(capsys, "folds", "data", "--set", "problem.file=t.csv", *QUICK, "--folds", 3, "--out", "k")
    assert (code, err) == (0, "") and [f"k-fold{i}.h5" in out for i in range(3)] == [True] * 3
    runs = [Run.open(f"k-fold{i}.h5") for i in range(3)]
    observed = np.concatenate([run.field["u_exact"] for run in runs])
    assert sorted(observed) == sorted(columns.read("t.csv")["Flow, total"])
    rmse = np.array([np.sqrt(np.mean((run.field["u"] - run.field["u_exact"]) ** 2)) for run in runs])
    r2 = np.array([1 - (r / run.field["u_exact"].std()) ** 2 for r, run in zip(rmse, runs, strict=True)])
    for name, column in (("rmse", rmse), ("r2", r2)):
        assert f"{name:17}{column.mean():.6g} ± {column.std(ddof=1):.2g}" in out


def test_folds_go_on_after_ctrl_c(capsys, folder, monkeypatch):
    table(Path("t.csv"), 60)
    command = ["folds", "data", "--set", "problem.file=t.csv", *QUICK, "--folds", 3, "--out"]
    _, whole, _ = call(capsys, *command, "k")
    with monkeypatch.context() as patch:
        trained = folds.train

        def interrupted(*args, out, **kwargs):
            if "fold1" in str(out):
                interrupt_after(patch, 1)
            return trained(*args, out=out, **kwargs)

        patch.setattr(folds, "train", interrupted)
        code, out, err = call(capsys, *command, "j")
    assert (code, err) == (130, "") and out.endswith("interrupted; the same command goes on\n")
    assert Run.open("j-fold1.h5").attrs["status"] == "interrupted" and not Path("j-fold2.h5").exists()
    before = Path("j-fold0.h5").read_bytes()
    code, out, err = call(capsys, *command, "j")
    assert (code, err) == (0, "") and out.replace("j-fold", "k-fold") == whole
    assert Path("j-fold0.h5").read_bytes() == before
    code, _, err = call(capsys, *command, "j", "--set", "seed=5")
    assert code == 2 and "j-fold0.h5: seed: given 5, the run has 0" in err


def test_rows_off_the_range_are_said(capsys, folder):
    table(Path("t.csv"), 60)
    call(capsys, "solve", "data", "--set", "problem.file=t.csv", *QUICK, "--out", "r.h5", "--quiet")
    Path("far.csv").write_text("Temp (C),p [Pa],const,count\n500,1e6,7,1\n0,1e6,7,1\n")
    code, _, err = call(capsys, "predict", "r.h5", "far.csv", "--out", "f.csv")
    assert code == 0 and "50.0% of the rows lie outside" in err
    assert Path("f.csv").read_text().splitlines()[0] == 'Temp (C),p [Pa],const,count,"Flow, total"'


def test_dry_run_of_a_table_leaves_nothing(capsys, folder):
    table(Path("t.csv"), 60)
    code, out, _ = call(capsys, "solve", "data", "--set", "problem.file=t.csv", "--dry-run")
    assert code == 0 and "interior: 43" in out and [p.name for p in folder.iterdir()] == ["t.csv"]


FILES = {
    "t.csv": None,
    "text.csv": "a,b\n1,2\n3,x\n4,5\n",
    "twice.csv": "a,a\n1,2\n",
    "ragged.csv": "a,b\n1,2\n3\n",
    "empty.csv": "",
    "other.csv": "Temp,p [Pa],const,count\n1,2,7,4\n",
    "lacks.csv": "Temp (C),p [Pa],const,count\n1,,7,4\n",
    "taken.csv": "a\n",
    "k-fold2.h5": "",
    "unnamed.csv": ",a,b\n0,1,2\n1,3,4\n2,5,7\n",
    "huge.csv": "a,b\n" + "".join(f"{i},{i}e200\n" for i in range(9)),
}
ON = lambda file, *more: ["solve", "data", "--set", f"problem.file={file}", "--out", "o.h5", *more]
BAD_CALLS = {
    "no such file": (ON("none.csv"), "none.csv: no such file"),
    "no file": (["solve", "data"], "data.csv: no such file"),
    "text in a cell": (ON("text.csv"), "line 3, column b: 'x' is no number"),
    "duplicate name": (ON("twice.csv"), "two columns are named 'a'"),
    "ragged": (ON("ragged.csv"), "line 3 has 1 cells"),
    "empty": (ON("empty.csv"), "empty"),
    "wrong output": (ON("t.csv", "--set", "problem.output=Flow"), "did you mean Flow, total?"),
    "wrong input": (ON("t.csv", "--set", "problem.inputs=[Temp]"), "did you mean Temp (C)?"),
    "input twice": (ON("t.csv", "--set", "problem.inputs=[count, count]"), "a column can be an input once"),
    "no name": (ON("unnamed.csv"), "has no name; name it, or say which are inputs"),
    "too large": (ON("huge.csv"), "needed are at most 1e+100"),
    "overflow": (["solve", "function", "--set", "problem.formula=exp(600*x1)", "--dry-run"], "at most 1e+100"),
    "unknown option": (ON("t.csv", "--set", "problem.outputs=y"), "did you mean output?"),
    "dim of a table": (ON("t.csv", "--dim", "3"), "given 3, this function has 4 inputs"),
    "share": (ON("t.csv", "--set", "problem.test=1.5"), "1.5"),
    "fold": (ON("t.csv", "--set", "problem.folds=3", "--set", "problem.fold=3"), "given 3, needed is 0 to 2"),
    "NPZ of other shapes": (ON("shapes.npz"), "one number per row in each array"),
    "dim of an equation": (["solve", "feynman", "--dim", "7"], "given 7, this function has 2 inputs"),
    "unknown equation": (["solve", "feynman", "--set", "problem.equation=I.12.55"], "did you mean I.12.5?"),
    "bad formula": (["solve", "function", "--set", "problem.formula=x1+z"], "unknown variable 'z'"),
    "predict no run": (["predict", "none.h5", "t.csv"], "none.h5: no such file"),
    "predict no table": (["predict", "r.h5", "none.csv"], "none.csv: no such file"),
    "predict other columns": (["predict", "r.h5", "other.csv"], "no column 'Temp (C)'"),
    "predict lacking": (["predict", "r.h5", "lacks.csv"], "1 of 1 rows lack a number"),
    "predict over a file": (["predict", "r.h5", "t.csv", "--out", "taken.csv"], "the file exists"),
    "predict nowhere": (["predict", "r.h5", "t.csv", "--out", "no/x.csv"], "no folder no"),
    "folds of a PDE": (["folds", "poisson"], "needed is the problem data, given poisson"),
    "one fold": (["folds", "data", "--set", "problem.file=t.csv", "--folds", "1"], "folds"),
    "folds over a file": (
        ["folds", "data", "--set", "problem.file=t.csv", "--out", "k"],
        "k-fold2.h5: not a readable HDF5 file",
    ),
    "folds without rows": (["folds", "data", "--set", "problem.file=t.csv", "--folds", "30"], "has 1 rows to test on"),
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    at = tmp_path_factory.mktemp("fitted")
    fit(at / "r.h5", Data(file=str(table(at / "t.csv", 40))), [{**LM, "steps": 1}])
    return at


@pytest.mark.parametrize("case", BAD_CALLS, ids=list(BAD_CALLS))
def test_bad_calls_are_one_line_exit_2_and_leave_nothing(capsys, folder, fitted, case):
    table(Path("t.csv"), 40)
    for name, text in FILES.items():
        if text is not None:
            Path(name).write_text(text)
    np.savez("shapes.npz", a=np.ones(3), b=np.ones(4))
    for name in ("r.h5", "r.pt"):
        Path(name).write_bytes((fitted / name).read_bytes())
    contents = lambda: {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}
    before = contents()
    args, says = BAD_CALLS[case]
    code, _, err = call(capsys, *args)
    assert code == 2 and says in err and err.count("\n") == 1, err
    assert contents() == before
