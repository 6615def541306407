"""The tables of equations: values by sympy's own parser, finite samples, the paper's beside AI Feynman's, bad names."""

import csv
import math
from itertools import pairwise

import pytest
import sympy
import torch

from kanpde.ground.errors import ConfigError
from kanpde.problems.equations import ALIASES, FOLDER, TABLES, Equation, equation, equations
from kanpde.problems.formulas import symbols

ALL = [(collection, name) for collection in TABLES for name in equations(collection)]


def points(e: Equation, n: int, seed: int = 0) -> torch.Tensor:
    low, high = torch.tensor(e.ranges, dtype=torch.float64).T
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, len(e.ranges), generator=generator, dtype=torch.float64)


def rows(collection: str) -> dict[str, dict[str, str]]:
    with open(FOLDER / TABLES[collection], newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(("collection", "name"), ALL, ids=[":".join(pair) for pair in ALL])
def test_values_of_every_equation_by_sympy(collection, name):
    """sympy's own parser, told that all names are symbols, in numpy; and our sympy expression."""
    e, row = equation(name, collection), rows(collection)[name]
    plain = sympy.symbols([entry.split()[0] for entry in row["ranges"].split(";")])
    known = {s.name: s for s in plain} | {"arcsin": sympy.asin, "ln": sympy.log}
    x = points(e, 300)
    expected = sympy.lambdify(plain, sympy.sympify(row["formula"], locals=known), "numpy")(*x.numpy().T)
    torch.testing.assert_close(e.formula(x), torch.from_numpy(expected), rtol=1e-11, atol=1e-13)
    ours = sympy.lambdify(symbols(e.formula.names), e.formula.sympy(), "numpy")(*x.numpy().T)
    torch.testing.assert_close(e.formula(x), torch.from_numpy(ours), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("collection", TABLES)
def test_values_are_finite_and_every_variable_counts(collection, dtype):
    for name, e in equations(collection).items():
        x = points(e, 2000).to(dtype).requires_grad_()
        y = e.formula(x)
        assert y.isfinite().all(), name
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert (gradient != 0).any(0).all(), name
        assert all(low < high for low, high in e.ranges) and len(e.ranges) == len(e.formula.names)


def test_feynman_table():
    table = equations("feynman")
    assert len(table) == 100 and all(e.structure is None for e in table.values())
    assert [*table][:4] == ["I.6.2a", "I.6.2", "I.6.2b", "I.8.14"] and [*table][-1] == "III.21.20"
    e = table["II.13.17"]  # I is a current
    assert (e.output, e.formula.names) == ("B", ("epsilon", "c", "I", "r")) and e.ranges == ((1.0, 5.0),) * 4
    x = torch.tensor([[2.0, 3.0, 5.0, 4.0]], dtype=torch.float64)
    assert e.formula(x).item() == pytest.approx(10 / (4 * math.pi * 2 * 9 * 4))
    inputs = [bounds for e in table.values() for bounds in e.ranges]  # 365 in all by the CSV's "# variables"
    assert len(inputs) == 365 and [sum(ends) for ends in zip(*inputs, strict=True)] == [400, 1669]


def test_paper_table():
    table = equations("paper")
    edges = [a * b for e in table.values() for a, b in pairwise(e.structure)]
    assert len(table) == 17 and len(edges) == 52 and sum(edges) == 451
    for name, e in table.items():
        assert e.structure[0] == len(e.ranges) and e.structure[-1] == 1, name
    assert table["I.8.4"].structure == (4, 5, 5, 1) and table["I.10.7"].structure == (3, 4, 4, 1, 1)
    assert table["I.12.11"].ranges == ((-1, 1),) * 4 + ((0, 2 * math.pi),)


def test_paper_and_feynman_have_the_same_functions():
    """By the names of the variables; I.9.18 of the paper is that of the CSV with m1 = m2 = x2 = 1."""
    for name, e in equations("paper").items():
        other = equation(ALIASES.get(name, name))
        columns = dict(zip(other.formula.names, points(other, 50).T, strict=True))
        if name == "I.9.18":
            columns |= dict.fromkeys(("m1", "m2", "x2"), torch.ones(50, dtype=torch.float64))
            mine = [columns[v] for v in ("G", "x1", "y1", "y2", "z1", "z2")]
        else:
            assert set(columns) == set(e.formula.names), name
            mine = [columns[v] for v in e.formula.names]
        theirs = other.formula(torch.stack(list(columns.values()), 1))
        torch.testing.assert_close(e.formula(torch.stack(mine, 1)), theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "collection", "message"),
    [
        ("I.8.4", "feynman", "I.8.4 of the paper is I.8.14 of the CSV"),
        ("I.6.20a", "feynman", "I.6.20a of the paper is I.6.2a of the CSV"),
        ("I.8.14", "paper", "I.8.14 of the CSV is I.8.4 of the paper"),
        ("i.12.5", "feynman", "did you mean I.12.5?"),
        ("I.12.55", "paper", "did you mean I.12.5?"),
        ("Navier", "feynman", "100 equations, I.6.2a to III.21.20"),
        ("I.12.5", "papers", "did you mean paper?"),
    ],
)
def test_unknown_equations_in_one_line(name, collection, message):
    with pytest.raises(ConfigError) as caught:
        equation(name, collection)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_tables_are_read_once_and_do_not_change():
    assert equations("feynman") is equations("feynman")
    with pytest.raises(TypeError):
        equations("feynman")["I.12.5"] = None
