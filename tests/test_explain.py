"""An explanation is of the run it is asked for: its rows, its function, its errors; every step is said."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call, close, generator, one_line, points

from kanpde import Run, backbones, train
from kanpde.explain import explain, shown, stages
from kanpde.ground.errors import ConfigError
from kanpde.interpret import EdgeNetwork, Tolerance, agrees, error, fit, snap
from kanpde.problems import Poisson, PoissonCos, PoissonPairs
from kanpde.problems.conditions import Dirichlet
from kanpde.problems.data import Data
from kanpde.problems.fitting import Function
from kanpde.report import contents

sympy = pytest.importorskip("sympy")
LM = {"optimizer": "gauss_newton", "options": {"damping": 0.1}}
LINEAR = {(0, i, o): "x" for i in (0, 1) for o in (0, 1)}  # the first layer of [2, 2, 1]
PRODUCT = {"formula": "x*y + 2", "ranges": {"x": (0.0, 2.0), "y": (-1.0, 2.0)}}


def solved(path: Path, problem=None, steps: int = 40, name: str = "kan", rows: int = 200, **options) -> Run:
    """A run of the problem, by default the product of two inputs and 2."""
    return train(
        problem or Function(**PRODUCT),
        solver="fit",
        backbone={"name": name, "widths": [2], **options},
        phases=[{**LM, "steps": steps}],
        points={"interior": rows, "validation": 50, "test": 100},
        evaluation={"every": 20},
        out=path,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("explain")


@pytest.fixture(scope="module")
def product(folder):
    return solved(folder / "product.h5")


@pytest.fixture(scope="module")
def explained(product, folder):
    """The explanation of the product, what it said, and the run's files before and after."""
    contents = lambda: [path.read_bytes() for path in (product.path, product.checkpoint)]
    before, said = contents(), []
    found = explain(product, folder=folder / "new" / "pictures", say=said.append)
    return found, said, before, contents()


def lines(said: list) -> str:
    return "\n".join(line for line in said if isinstance(line, str))


# A formula ---------------------------------------------------------------------------------------------------------


def test_a_product_is_found(explained):
    found, said, _, _ = explained
    x, y = sympy.symbols("x y")
    assert sympy.expand(found.formula) == x * y + 2
    assert agrees(found.formula, lambda p: p[:, 0] * p[:, 1] + 2, ["x", "y"], [(0, 9), (-9, 9)], 50, generator())
    assert sympy.sympify(Path(found.files[1]).read_text()) == found.formula
    assert "x y" in lines(said) and str(found.formula) in lines(said)


def test_every_step_is_said_and_each_begins_where_the_last_one_ended(explained, product):
    found, said, _, _ = explained
    assert found.steps and all(str(step) in lines(said) for step in found.steps)
    now = found.errors["trained"]["sample"]["rel_l2"]
    for step in found.steps[:-1]:
        assert step.error_before == pytest.approx(now, rel=1e-9), step
        now = step.error_after if step.kept else now
    assert now == pytest.approx(found.errors["snapped"]["sample"]["rel_l2"], rel=1e-9)


def test_errors_are_those_of_the_run_on_its_rows(explained, product):
    found = explained[0]
    assert found.errors["trained"]["test"]["rmse"] == pytest.approx(product.attrs["rmse_best"], rel=1e-6)
    x, y = (torch.from_numpy(product.field[name]) for name in ("x", "u_exact"))
    assert error(found.network, x, y.unsqueeze(1)) == pytest.approx(found.errors["snapped"]["test"]["rel_l2"], rel=1e-3)
    assert found.errors["formula"]["test"]["rel_l2"] < 1e-12 < found.errors["trained"]["test"]["rel_l2"]
    assert list(found.errors) == ["trained", "pruned", "snapped", "formula"]


def test_the_files_are_written_and_those_of_the_run_are_not(explained, folder):
    found, _, before, after = explained
    names = ["graph.png", "formula.txt", "formula.tex", "explained.png", "similarity.png"]
    assert found.files == [folder / "new" / "pictures" / f"product-{name}" for name in names]
    assert all(path.stat().st_size > 20 for path in found.files if path.suffix == ".png") and before == after


def test_importance_is_by_name(folder):
    run = solved(folder / "weak.h5", Function(formula="3*b + a/10", ranges={"a": (0.0, 1.0), "b": (0.0, 1.0)}), 15)
    said = []
    found = explain(run, symbolic=False, say=said.append)
    assert found.importance["b"] > 0.9 > 0.1 > found.importance["a"] and list(found.importance) == ["a", "b"]
    (table,) = [t for t in said if getattr(t, "title", "") == "what the network reads"]
    assert list(map(str, table.columns[0].cells)) == ["b", "a"]
    assert found.formula is None and "snapped" not in found.errors


def test_a_chosen_function_is_taken_and_one_that_does_harm_is_undone(product):
    said = []
    harm = explain(product, choose={**LINEAR, (1, 0, 0): "sqrt", (1, 1, 0): "arctan"}, say=said.append)
    assert len(harm.steps) > 2 and all(str(step) in lines(said) for step in harm.steps)
    undone = [step for step in harm.steps if not step.kept]
    assert any("sqrt" in step.what for step in undone) and any("arctan" in step.what for step in undone)
    assert harm.formula is None and harm.errors["snapped"]["sample"]["rel_l2"] < 1e-3
    sound = explain(product, choose={**LINEAR, (1, 0, 0): "x^2", (1, 1, 0): "x^2"}, prune=False)
    assert "6 edges at once: x (4), x^2 (2)" in str(sound.steps[0]) and sound.formula is not None
    assert "pruned" not in sound.errors


def test_a_poor_network_is_called_poor_and_a_good_one_is_not(folder, explained):
    said = []
    explain(solved(folder / "poor.h5", steps=1), prune=False, symbolic=False, say=said.append)
    assert "means little" in lines(said) and "means little" not in lines(explained[1])


def test_without_time_there_are_pictures_and_no_formula(product):
    said = []
    found = explain(product, seconds=0, say=said.append)
    assert found.formula is None and "6 edges (layer, input, output) stay numeric: (0, 0, 0)" in lines(said)
    assert not any("formula" in path.name for path in found.files)
    assert not found.steps


# Rows --------------------------------------------------------------------------------------------------------------


def test_a_table_is_judged_by_its_training_rows(folder, monkeypatch):
    x = points(80, 2)
    table = np.column_stack([x, x[:, 0] + 2 * x[:, 1]])
    np.savetxt(folder / "t.csv", table, delimiter=",", header="width (m),p_%,the sum", comments="")
    run = solved(folder / "table.h5", Data(file=str(folder / "t.csv")), 20, rows=60, widths=[1])
    seen = {}
    monkeypatch.setattr(
        stages.interpret, "prune", lambda network, x, y, tolerance, stop: (seen.update(x=x, y=y), (network, []))[1]
    )
    said = []
    found = explain(run, seconds=20, points=50, say=said.append)
    assert found.output == "the sum" and list(found.importance) == ["width (m)", "p_%"]
    given = {tuple(row) for row in np.round(table, 9)}
    rows = torch.cat([seen["x"], seen["y"]], 1).numpy()
    assert len(rows) == 50 and {tuple(row) for row in np.round(rows, 9)} <= given
    tested = {tuple(row) for row in np.round(run.field["x"], 9)}
    assert not tested & {row[:2] for row in map(tuple, np.round(rows, 9))}
    assert r"\text{the sum} = " in lines(said) and r"\text{p\_\%}" in lines(said)


def test_of_a_pde_the_network_itself_is_explained(folder, monkeypatch):
    run = train(
        Poisson(2), backbone={"name": "kan", "widths": [3]}, steps=60, points={"test": 300}, out=folder / "p.h5"
    )
    said = []
    allowed, prune = [], stages.interpret.prune

    def recorded(network, x, y, tolerance, stop):
        allowed.append(tolerance)
        return prune(network, x, y, tolerance=tolerance, stop=stop)

    monkeypatch.setattr(stages.interpret, "prune", recorded)
    found = explain(run, symbolic=False, tolerance=1.2, say=said.append, points=300)
    assert allowed == [Tolerance(1.2, run.rel_l2)]
    assert found.output == "f" and "explained is the network f" in lines(said)
    u = run.load_model()
    x = points(20, 2)
    with torch.no_grad():
        close(EdgeNetwork.of(u.net)(x), u.net.double()(x), 1e-6)
    assert found.errors["trained"]["test"]["rel_l2"] < 1e-12
    assert f"{run.rel_l2:.2g}" in lines(said)
    assert all(step.error_after <= run.rel_l2 * 1.0001 for step in found.steps if step.kept)


# Other networks ----------------------------------------------------------------------------------------------------


def test_two_networks_are_compared_and_prompts_are_drawn(product, folder):
    meta = solved(folder / "meta.h5", name="metakan", meta_hidden=4, steps=3)
    found = explain(product, other=meta, prune=False, symbolic=False)
    assert list(found.compactness) == ["kan", "metakan"]
    ranks = {name: of["effective_rank"] for name, of in found.compactness.items()}
    assert ranks["metakan"] < ranks["kan"] and found.files[-1].name == "product-prompts.png"
    same = explain(product, other=replace_path(product, folder / "copy.h5"), prune=False, symbolic=False)
    assert len(same.compactness) == 2 and "prompts" not in same.files[-1].name


def replace_path(run: Run, path: Path) -> Run:
    """A copy of a run under another name."""
    path.write_bytes(run.path.read_bytes())
    path.with_suffix(".pt").write_bytes(run.checkpoint.read_bytes())
    return Run.open(path)


@pytest.mark.parametrize(
    ("name", "options", "said_of_it"),
    [
        ("fastkan", {"widths": [2, 2]}, "LayerNorm"),
        ("wavkan", {}, "no similarity"),
        ("kan", {"widths": [12, 12]}, "up to 20 edges are pruned and snapped, this one has 180"),
    ],
)
def test_what_cannot_be_done_is_said(folder, monkeypatch, name, options, said_of_it):
    monkeypatch.setattr(stages, "FITTED", 20)
    run, said = solved(folder / f"{name}.h5", name=name, steps=1, **options), []
    found = explain(run, seconds=0, say=said.append)
    assert said_of_it in lines(said) and found.files[0].name == f"{name}-graph.png"
    assert len(found.importance) == 2 and found.formula is None


def test_a_picture_shows_the_edges_there_are_with_the_names_of_formulas(explained):
    network = explained[0].network.copy()
    for present in (6, 5):
        if present == 5:
            network.remove((0, 1, 0))
        figure = shown.graph(network, points(60, 2), ["a", "b"], "c", "")
        frames = [ax.get_label() for ax in figure.axes if ax.get_label().startswith("layer")]
        assert len(frames) == present
        names = [text.get_text() for text in figure.axes[0].texts if text.get_label().startswith("layer")]
        assert names.count("$x^{2}$") == 2 and names.count("$x$") == present - 2


def test_names_in_latex():
    formula = sympy.Symbol("x1") + sympy.Symbol("theta_0") * sympy.Symbol("speed & 10%")
    assert shown.tex(formula, ["x1", "theta_0", "speed & 10%"], "y_out") in (
        r"y_{out} = \theta_{0} \text{speed \& 10\%} + x_{1}",
        r"y_{out} = \text{speed \& 10\%} \theta_{0} + x_{1}",
    )


# All edges at once -------------------------------------------------------------------------------------------------


FEW = ("x", "x^2", "sqrt", "log")


def fitted_product() -> tuple[EdgeNetwork, torch.Tensor, torch.Tensor]:
    """A network [2, 2, 1] that is a product to some digits, each of its edges bent somewhat."""
    x = points(200, 2)
    y = (x[:, 0] * x[:, 1]).unsqueeze(1)
    network = EdgeNetwork.of(backbones.build("kan", 2, 1, widths=(2,), generator=generator(0)).double())
    fit(network, x, y, 20, damping=0.1)
    return network, x, y


def test_all_edges_at_once_or_none():
    network, x, y = fitted_product()
    before = error(network, x, y)
    assert 1e-8 < before < 1e-2
    found, steps = snap(network, x, y, together=lambda: False, functions=FEW)
    assert found.is_symbolic() and error(found, x, y) < 1e-12 and steps[0].error_before == before
    same, steps = snap(network, x, y, together=lambda: False, functions=("tanh",), r2_at_least=0.5)
    assert not steps[0].kept and steps[0].error_after > before and "tanh" in steps[0].what
    assert error(same, x, y) <= 1.5 * before


def test_a_search_ends_when_it_is_told_to():
    network, x, y = fitted_product()
    same, steps = snap(network, x, y, together=lambda: True, stop=lambda: True)
    assert steps == [] and error(same, x, y) == error(network, x, y)
    same, steps = snap(network, x, y, together=lambda: False, stop=lambda: True)
    assert steps == [] and error(same, x, y) == error(network, x, y)
    asked = count()
    partly, steps = snap(network, x, y, functions=FEW, stop=lambda: next(asked) >= 8)  # six candidates, then two edges
    assert len(steps) == 2 and not partly.is_symbolic()


# The command line --------------------------------------------------------------------------------------------------


def test_the_command(capsys, product, folder):
    code, out, err = call(capsys, "explain", product.path, "--folder", folder / "c", "--choose", "0,0,0=x")
    assert (code, err) == (0, "") and "x*y + 2" in out and str(folder / "c" / "product-explained.png") in out
    code, out, err = call(
        capsys, "explain", product.path, "--quiet", "--no-prune", "--no-symbolic", "--folder", folder / "q"
    )
    assert (code, out, err) == (0, "", "") and not (folder / "q" / "product-formula.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope.h5"], "no such file"),
        (["RUN", "--other", "nope.h5"], "no such file"),
        (["RUN", "--choose", "0,1=sin"], "LAYER,INPUT,OUTPUT=FUNCTION"),
        (["RUN", "--choose", "0,1,0=sine"], "did you mean sin?"),
        (["RUN", "--choose", "0,1,7=sin"], "nearest is (0, 1, 1)"),
        (["RUN", "--choose", "0,1,0=sin", "--no-symbolic"], "switched off"),
        (["RUN", "--tolerance", "0.5"], "given 0.5"),
        (["RUN", "--r2", "2"], "r2 in [0, 1]"),
        (["RUN", "--points", "3"], "points >= 50"),
        (["RUN", "--folder", "/proc/x"], "/proc/x: files cannot be written"),
        (["MLP"], "an mlp has no edges"),
    ],
)
def test_a_bad_call_is_one_line_and_exit_code_2(capsys, product, folder, words, message):
    mlp = folder / "mlp.h5"
    if "MLP" in words and not mlp.exists():
        solved(mlp, name="mlp", steps=1)
    code, _, err = call(capsys, "explain", *({"RUN": product.path, "MLP": mlp}.get(word, word) for word in words))
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_a_network_that_is_too_large_is_refused(product, monkeypatch):
    monkeypatch.setattr(stages, "DRAWN", 5)
    with pytest.raises(ConfigError, match="up to 5 edges, this one has 6") as info:
        explain(product)
    one_line(info)


def test_the_sample_is_what_was_trained_on_be_it_drawn_by_another_law(folder, monkeypatch):
    seen = []
    was = Function.residual
    monkeypatch.setattr(Function, "residual", lambda self, u, rows: seen.append(rows) or was(self, u, rows))
    drawn = {"interior": 64, "validation": 50, "test": 100, "law": "arcsine", "sequence": "sobol"}
    run = train(Function(**PRODUCT), solver="fit", phases=[{**LM, "steps": 1}], points=drawn, out=folder / "drawn.h5")
    trained = next(rows for rows in seen if rows.shape == (64, 4))
    x, y = stages._Work(run, folder, 64, False, None, lambda text: None).rows["sample"]
    assert torch.equal(x, trained[:, :2]) and torch.equal(y[:, 0], trained[:, 2])


# Solutions ---------------------------------------------------------------------------------------------------------


def solution(path: Path, problem, widths: list, degree: int, steps: int, **settings) -> Run:
    return train(
        problem,
        solver="low_dim",
        points={"interior": 200, "boundary": 100, "test": 300} if settings else {"interior": 200, "test": 300},
        backbone={"name": "chebykan", "widths": widths, "degree": degree, "squash": "none"},
        phases=[{"optimizer": "levenberg_marquardt", "steps": steps}],
        start="network",
        out=path,
        **settings,
    )


SOFT = {"constraint": "soft", "loss": {"weights": {"dirichlet": 100}}}


def test_a_solution_is_a_formula_that_its_equation_proves(folder):
    run, said = solution(folder / "pairs.h5", PoissonPairs(2), [2], 2, 12, **SOFT), []
    found = explain(run, points=200, say=said.append)
    x1, x2 = sympy.symbols("x1 x2")
    assert found.proof.exact and sympy.expand(found.proof.formula) == x1 * x2
    written = (folder / "pairs-solution.txt").read_text()
    assert written.splitlines()[1:] == ["residual: 0, exact", "dirichlet: 0, exact", "verdict: exact"]
    assert written.strip() in lines(said) and folder / "pairs-solution.txt" in found.files
    page = contents.contents(run)
    assert page.tables[0].rows[-1] == ("verdict: exact",)


def test_what_is_built_in_is_part_of_the_formula(folder):
    class Bump(PoissonPairs):
        conditions = (Dirichlet(value=1.0),)

        def source(self, x):
            return -2 * ((x - x**2).sum(1))

        def exact(self, x):
            return 1 + (x - x**2).prod(1)

    found = explain(solution(folder / "bump.h5", Bump(2), [], 2, 8), problem=Bump(2), points=200)
    x1, x2 = sympy.symbols("x1 x2")
    assert found.output == "f" and not found.formula.free_symbols
    assert found.proof.exact and sympy.expand(found.proof.formula - 1 - (x1 - x1**2) * (x2 - x2**2)) == 0


def test_a_formula_that_the_equation_accepts_ends_the_search(folder):
    run = solution(folder / "cosines.h5", PoissonCos(2), [3], 8, 25, **SOFT)
    found = explain(run, symbolic=False, prune=False, points=400, search=60)
    assert run.rel_l2 > 1e-9 and found.formula is None
    assert found.proof.exact and str(found.proof.formula) == "cos(pi*x1) + cos(pi*x2)"


def test_a_search_for_rows_is_refused(product, capsys):
    code, _, err = call(capsys, "explain", product.path, "--search", 5)
    assert code == 2 and "kanpde recover" in err and len(err.splitlines()) == 1
