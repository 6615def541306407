"""Domains without a factor that are no surface: points alone, and all of space."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import close, generator, one_line, planned
from scipy import stats

import kanpde
from kanpde import ConfigError
from kanpde.domains import Ball, Box, Cylinder, Gaussian, PointCloud
from kanpde.domains.base import kinds_of
from kanpde.problems.conditions import Dirichlet, Initial, Neumann
from kanpde.testing import check_domain, check_problem

F64, N = torch.float64, 20_000
SQUARE = Box(2)
INSIDE, EDGE = SQUARE.interior(400, generator(1), dtype=F64), SQUARE.boundary(90, generator(1), dtype=F64)
CLOUD = PointCloud(INSIDE, EDGE, 3 * SQUARE.normal(EDGE), volume=4.0, area=8.0)
numbers_of = lambda x, rows: (x.unsqueeze(1) == rows).all(2).int().argmax(1)

# Points --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "rows"), [("interior", INSIDE), ("boundary", EDGE)])
def test_points_are_rows_and_none_comes_twice_while_there_are_more(place, rows):
    draw = lambda n, seed=1: getattr(CLOUD, place)(n, generator(seed), dtype=F64)
    for n in (1, 50, len(rows)):
        assert len(set(numbers_of(draw(n), rows).tolist())) == n and (draw(n).unsqueeze(1) == rows).all(2).any(1).all()
    counts = numbers_of(draw(40 * len(rows)), rows).bincount(minlength=len(rows))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert not torch.equal(draw(50), draw(50, 2)) and draw(3).dtype == F64
    assert getattr(CLOUD, place)(3, generator(1)).dtype == torch.float32
    firsts = torch.stack([numbers_of(draw(1, seed), rows)[0] for seed in range(300)])
    assert len(set(firsts.tolist())) > 50, "each of them is as likely"


def test_points_come_from_files_and_arrays(tmp_path):
    np.save(tmp_path / "points.npy", INSIDE.numpy())
    np.savetxt(tmp_path / "plain.csv", INSIDE.numpy(), delimiter=",")
    np.savetxt(tmp_path / "named.csv", INSIDE.numpy(), delimiter=",", header="x,y", comments="")
    for given in ("points.npy", "plain.csv", "named.csv"):
        assert torch.equal(PointCloud(tmp_path / given).points, INSIDE)
    assert torch.equal(PointCloud(INSIDE.tolist(), str(tmp_path / "plain.csv")).edge, INSIDE)
    array = INSIDE.numpy().copy()
    cloud = PointCloud(array)
    array[:] = 0
    assert torch.equal(cloud.points, INSIDE)


def test_what_a_cloud_says_of_its_domain():
    """Almost all of what it was drawn from is in it, and what is farther than its reach is not."""
    assert CLOUD.dim == 2 and CLOUD.volume == 4.0 and CLOUD.area == 8.0
    x = SQUARE.interior(N, generator(5), dtype=F64)
    assert CLOUD.contains(x).double().mean() > 0.97
    off = torch.cdist(x * 1.5, torch.cat([INSIDE, EDGE])).amin(1)
    assert torch.equal(CLOUD.contains(1.5 * x), off <= CLOUD.reach) and 0.05 < CLOUD.reach < 0.15
    assert CLOUD.contains(x[:0]).shape == (0,)
    close(CLOUD.normal(EDGE), SQUARE.normal(EDGE), 1e-14)
    close(CLOUD.normal(EDGE[:9].float()), SQUARE.normal(EDGE[:9]).float(), 1e-6)
    assert CLOUD.input_range("rows") == [(-1, 1), (-1, 1)] and CLOUD.frame() == ([0, 0], [1, 1])
    for name in ("volume", "area"):
        with pytest.raises(NotImplementedError, match=f"PointCloud states no {name}"):
            getattr(PointCloud(INSIDE), name)


def test_clouds_agree_with_themselves():
    assert kinds_of(CLOUD) == ("interior", "boundary") and kinds_of(PointCloud(INSIDE)) == ("interior",)
    assert kinds_of(Cylinder(CLOUD)) == ("interior", "boundary", "initial")
    for cloud in (CLOUD, PointCloud(INSIDE), Cylinder(CLOUD), Cylinder(PointCloud(INSIDE))):
        report = str(check_domain(cloud))
        assert ("factor on the initial" in report) == (isinstance(cloud, Cylinder) and cloud.space is not CLOUD)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PointCloud([1.0, 2.0]), "points: given (2,), needed are numbers (n, d)"),
        (lambda: PointCloud([[1.0, 2.0], [3.0]]), "points: given [[1.0, 2.0], [3.0]], needed are numbers (n, d)"),
        (lambda: PointCloud([]), "points: given (0,), needed are numbers (n, d)"),
        (lambda: PointCloud([[0.0], [float("nan")]]), "points: row 1 is not finite"),
        (lambda: PointCloud([[0.0, 1.0], [1.0, 1.0]]), "points: all have the same coordinate 1"),
        (lambda: PointCloud(INSIDE, EDGE[:, :1]), "boundary: given (90, 1), needed are numbers (n, 2)"),
        (lambda: PointCloud(INSIDE, EDGE, EDGE[:3]), "normals: given 3, needed is one for each of 90"),
        (lambda: PointCloud(INSIDE, None, EDGE), "normals: given 90, needed is one for each of 0"),
        (lambda: PointCloud(INSIDE, EDGE, 0 * EDGE), "normals: one of them is zero"),
        (lambda: PointCloud(INSIDE, volume=-1.0), "volume: given -1.0, needed is a finite number above 0"),
        (lambda: PointCloud("none.csv"), "points: given 'none.csv': no such file"),
        (lambda: PointCloud("none.vtk"), "points: given 'none.vtk': needed is a .npy or a .csv file"),
        (lambda: PointCloud(INSIDE, EDGE).normal(EDGE), "normals: none are given"),
        (lambda: CLOUD.interior(3, generator(), "volume"), "sampling law 'volume' is not one of rows"),
        (lambda: CLOUD.interior(3, generator(), sequence="halton"), "sequence 'halton' is not one of random, sobol"),
        (lambda: CLOUD & SQUARE, "intersection: given a PointCloud; needed is one with points by volume"),
        (lambda: Gaussian(2, 0.0), "Gaussian: sigma: given 0.0, needed is a finite number above 0"),
        (lambda: Gaussian(2, 1.0, (0.0,)), "Gaussian: center: given (0.0,), needed are 2 finite numbers"),
        (lambda: Gaussian(0), "Gaussian: dim: given 0"),
        (lambda: Gaussian(2).interior(3, generator(), "volume"), "sampling law 'volume' is not one of normal"),
    ],
)
def test_what_is_no_domain_is_refused_in_one_line(make, says):
    with pytest.raises(ConfigError) as info:
        make()
    assert says in one_line(info)


def test_a_broken_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "broken.csv").write_text("1,2\n3\n")
    (tmp_path / "broken.npy").write_text("no array")
    for name in ("broken.csv", "broken.npy"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read") as info:
            PointCloud(tmp_path / name)
        one_line(info)


# All of space --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", ["random", "sobol"])
def test_points_are_normal(sequence):
    domain = Gaussian(3, 0.5, (1.0, -2.0, 0.0))
    x = domain.interior(2000, generator(1), sequence=sequence, dtype=F64)
    for column, centre in zip(x.unbind(1), domain.center, strict=True):
        assert stats.kstest(column.numpy(), stats.norm(centre, 0.5).cdf).pvalue > 1e-3
    assert (torch.corrcoef(x.T) - torch.eye(3, dtype=F64)).abs().max() < 4.5 / 2000**0.5
    assert domain.frame() == ([1.0, -2.0, 0.0], 1.5) and domain.input_range("normal")[0] == (-1.0, 3.0)
    assert domain.contains(1e6 * x).all() and domain.volume == float("inf") and domain.area == 0
    assert torch.equal(x, domain.interior(2000, generator(1), sequence=sequence, dtype=F64))


def test_all_of_space_has_no_boundary():
    assert kinds_of(Gaussian(2)) == ("interior",) and kinds_of(Cylinder(Gaussian(2))) == ("interior", "initial")
    assert "points by normal" in str(check_domain(Gaussian(2)))
    assert "factor on the initial" in str(check_domain(Cylinder(Gaussian(2), 3.0)))
    x = Cylinder(Gaussian(2), 3.0).interior(5, generator(1), dtype=F64)
    m = Cylinder(Gaussian(2), 3.0).factor(x)
    assert torch.equal(m.value, x[:, 2]) and torch.equal(m.grad, torch.tensor([0.0, 0, 1], dtype=F64).expand(5, 3))
    assert not m.hessian_diagonal.any()


def test_many_dimensions_cost_what_their_points_do():
    for domain in (Gaussian(100_000), Gaussian(100_000, 2.0, (0.5,) * 100_000)):
        for part in (domain, Cylinder(domain)):
            x = part.interior(2, generator(1))
            assert x.shape == (2, part.dim) and part.contains(x).all()


# Problems ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heat(kanpde.Problem):
    """u_t = Lap u in all of space"""

    dim: int = 2

    @property
    def domain(self):
        return Cylinder(Gaussian(self.dim), 0.5)

    def residual(self, u, x):
        return u.t - u.lap

    def initial_value(self, x):
        return self.exact(torch.cat([x[:, :-1], torch.zeros_like(x[:, -1:])], 1))

    def exact(self, x):
        t = 1 + 4 * x[:, -1]
        return (-x[:, :-1].square().sum(1) / t).exp() / t ** (self.dim / 2)


class Stated(Heat):
    conditions = (Initial(lambda x: (-x[:, :2].square().sum(1)).exp()),)
    initial_value = kanpde.Problem.initial_value


class Steady(Heat):
    """Lap u = u: nothing is asked of u but the equation"""

    @property
    def domain(self):
        return Gaussian(self.dim)

    def residual(self, u, x):
        return u.lap - u.value

    initial_value, exact = kanpde.Problem.initial_value, kanpde.Problem.exact


class OnRows(Steady):
    conditions = (Neumann(lambda x: x[:, 0] > 0, 1.0), Dirichlet(lambda x: x[:, 0] <= 0, 0.0))

    @property
    def domain(self):
        return CLOUD


class OnRowsAlone(OnRows):
    conditions = ()


class Bounded(Steady):
    conditions = (Dirichlet(),)


def test_initial_values_in_all_of_space_are_met_exactly():
    """Where there is no boundary, nothing has to agree with its values."""
    assert "lift on the initial" in str(check_problem(Heat()))
    assert Stated().exactly.met == {"initial"}
    x = Heat().domain.initial(5, generator(1), dtype=F64)
    close(Stated().lift(x).value, Heat().initial_value(x), 1e-14)
    for problem in (Heat(), Steady(), Stated()):
        assert planned(problem).counts.keys() == {"interior"}
    soft = planned(Heat(), {"constraint": "soft", "points": {"initial": 10}})
    assert soft.counts.keys() == {"interior", "initial"}


def test_conditions_on_a_cloud_are_left_to_the_loss():
    assert OnRows().exactly.met == frozenset() and {"neumann", "dirichlet"} <= planned(OnRows()).counts.keys()
    for problem, says in ((OnRowsAlone(), "a PointCloud has no factor"), (Bounded(), "a Gaussian has no boundary")):
        with pytest.raises(ConfigError, match=says) as info:
            planned(problem)
        one_line(info)


def test_a_problem_may_say_that_u_is_free():
    class Free(OnRowsAlone):
        def factor(self, x):
            return None

    assert planned(Free()).counts.keys() == {"interior"} and Free().lift(INSIDE) is None


def test_a_cloud_in_one_dimension_more_is_no_ball():
    """A point far from all others does not make all near ones neighbours."""
    x = torch.cat([Ball(3).interior(500, generator(1), "volume", dtype=F64), torch.full((1, 3), 50.0, dtype=F64)])
    assert PointCloud(x).reach < 1.0 and not PointCloud(x).contains(torch.full((1, 3), 20.0)).any()
