"""Domains, laws of points, sequences, named streams and the pool."""

import pytest
import torch
from conftest import F64, close, generator, hessian, one_line, points
from scipy import stats
from torch import Tensor
from torch.func import grad, vmap

from kanpde.domains import Ball, Box, Cylinder, Domain
from kanpde.domains.base import LAWS, MEMBERS
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import SEQUENCES, SOBOL_MAX_DIM, Pool, directions, stream, uniforms

N = 2000
DOMAINS = {
    "ball": Ball(5, 2.0),
    "ball-1": Ball(1),
    "box": Box(4, -0.5, 2.0),
    "box-1": Box(1, 0.0, 1.0),
    "ball-time": Cylinder(Ball(4, 0.7), 3.0),
    "box-time": Cylinder(Box(3, 1.0, 2.0)),
    "box-axes": Box(2, (0.0, -1.0), [2.0, 0.0]),
    "box-axes-time": Cylinder(Box(2, 0.0, (2.0, 1e-3)), 0.5),
}
both_sequences = pytest.mark.parametrize("sequence", SEQUENCES)
both_laws = pytest.mark.parametrize("law", LAWS)


def p_uniform(sample: Tensor, low: float = 0.0, high: float = 1.0) -> float:
    """p-value of the Kolmogorov-Smirnov test of the uniform law on [low, high]."""
    return stats.kstest(sample.numpy(), stats.uniform(low, high - low).cdf).pvalue


def draw(domain, part: str, n: int = N, seed: int = 0, **options) -> Tensor:
    return getattr(domain, part)(n, generator(seed), dtype=F64, **options)


# Laws --------------------------------------------------------------------------------------------------------------


@both_sequences
@pytest.mark.parametrize("dim", [1, 2, 7, 50])
def test_radial_law_has_a_uniform_radius(dim, sequence):
    radius = draw(Ball(dim, 2.0), "interior", law="radial", sequence=sequence).norm(dim=1)
    assert p_uniform(radius, 0, 2) > 1e-3
    assert dim == 1 or p_uniform((radius / 2) ** dim) < 1e-3  # and is not uniform in the volume


@both_sequences
@pytest.mark.parametrize("dim", [1, 2, 7, 50])
def test_volume_law_has_a_uniform_power_of_the_radius(dim, sequence):
    radius = draw(Ball(dim, 2.0), "interior", law="volume", sequence=sequence).norm(dim=1)
    assert p_uniform((radius / 2) ** dim) > 1e-3
    assert dim == 1 or p_uniform(radius, 0, 2) < 1e-3


@both_sequences
@pytest.mark.parametrize("part", ["interior", "boundary"])
@pytest.mark.parametrize("dim", [2, 7])
def test_directions_are_uniform_and_independent_of_the_radius(dim, part, sequence):
    """A coordinate of a uniform direction has a square of law Beta(1/2, (d - 1)/2), and either sign."""
    x = draw(Ball(dim), part, sequence=sequence)
    radius = x.norm(dim=1, keepdim=True)
    direction = x / radius
    for column in direction.unbind(1):
        assert stats.kstest(column.square().numpy(), stats.beta(0.5, (dim - 1) / 2).cdf).pvalue > 1e-3
        assert stats.binomtest(int((column > 0).sum()), N).pvalue > 1e-3
        assert part == "boundary" or abs(stats.spearmanr(column, radius[:, 0]).statistic) < 4 / N**0.5
    correlation = torch.corrcoef(direction.T) - torch.eye(dim, dtype=F64)
    assert correlation.abs().max() < 4.5 / N**0.5


@both_sequences
def test_box_is_uniform_inside_and_on_its_faces(sequence):
    box = DOMAINS["box"]
    x = draw(box, "interior", sequence=sequence)
    assert all(p_uniform(column, box.low, box.high) > 1e-3 for column in x.unbind(1))
    x = draw(box, "boundary", sequence=sequence)
    at_face = torch.stack([x == box.low, x == box.high], -1).flatten(1)
    assert (at_face.sum(1) == 1).all()
    assert stats.chisquare(at_face.sum(0).numpy()).pvalue > 1e-3
    for i, column in enumerate(x.unbind(1)):
        assert p_uniform(column[~at_face.unflatten(1, (4, 2))[:, i].any(1)], box.low, box.high) > 1e-3


@both_sequences
@pytest.mark.parametrize("part", ["interior", "boundary"])
def test_time_is_uniform_and_independent_of_space(part, sequence):
    x = draw(DOMAINS["ball-time"], part, sequence=sequence)
    assert p_uniform(x[:, -1], 0, 3) > 1e-3
    assert all(abs(stats.spearmanr(column, x[:, -1]).statistic) < 4.5 / N**0.5 for column in x[:, :-1].unbind(1))


@both_sequences
@both_laws
@pytest.mark.parametrize("name", DOMAINS)
def test_points_lie_inside(name, law, sequence):
    domain = DOMAINS[name]
    x = draw(domain, "interior", law=law, sequence=sequence)
    assert x.shape == (N, domain.dim) and x.dtype == F64 and x.isfinite().all()
    assert domain.contains(x).all() and not domain.contains(x + 10).any()
    assert (domain.factor(x).value > 0).all()


@both_sequences
@pytest.mark.parametrize("name", DOMAINS)
def test_boundary_lies_on_the_boundary(name, sequence):
    domain = DOMAINS[name]
    x = draw(domain, "boundary", sequence=sequence)
    assert x.shape == (N, domain.dim)
    assert domain.factor(x).value.abs().max() < 1e-14
    space = domain.space if isinstance(domain, Cylinder) else domain
    if isinstance(space, Ball):
        close(x[:, : space.dim].norm(dim=1), torch.full((N,), space.radius, dtype=F64), 1e-14)
    else:
        assert domain.contains(x).all()
    if isinstance(domain, Cylinder):
        assert (x[:, -1] > 0).all() and (x[:, -1] <= domain.time).all()


@both_laws
@pytest.mark.parametrize("name", ["ball-time", "box-time"])
def test_initial_points_are_points_of_space_at_time_zero(name, law):
    domain = DOMAINS[name]
    x = draw(domain, "initial", law=law)
    assert x.shape == (N, domain.dim) and not x[:, -1].any() and domain.contains(x).all()
    assert torch.equal(x[:, :-1], draw(domain.space, "interior", law=law))
    assert not domain.factor(x).value.any()


@both_laws
@pytest.mark.parametrize("name", DOMAINS)
def test_range_of_the_inputs_holds_almost_all_points(name, law):
    domain = DOMAINS[name]
    x = draw(domain, "interior", law=law)
    limits = torch.tensor(domain.input_range(law), dtype=F64)
    assert limits.shape == (domain.dim, 2)
    assert ((x >= limits[:, 0]) & (x <= limits[:, 1])).double().mean(0).min() > 0.999


def test_range_of_the_inputs_shrinks_with_the_dimension():
    """Where coordinates are small the grid follows them."""
    low, high = Ball(400).input_range("radial")[0]
    assert 0.1 < high == -low < 0.3


@pytest.mark.parametrize("name", DOMAINS)
def test_unknown_law_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match="radial, volume") as info:
        draw(DOMAINS[name], "interior", law="gaussian")
    one_line(info)


@pytest.mark.parametrize("part", ["interior", "boundary"])
@pytest.mark.parametrize("name", DOMAINS)
def test_unknown_sequence_is_refused_in_one_line(name, part):
    with pytest.raises(ValueError, match="random, sobol") as info:
        draw(DOMAINS[name], part, sequence="halton")
    one_line(info)


# A range for each axis, and what is none ----------------------------------------------------------------------------


@both_sequences
def test_boundary_points_are_uniform_over_the_faces_of_a_box(sequence):
    """A face of a 4 x 2 x 1 box has as many as it is large: 2, 4 and 8 of 28 on each of a pair."""
    box = Box(3, (0.0, 1.0, -1.0), (4.0, 3.0, 0.0))
    x = draw(box, "boundary", sequence=sequence)
    assert box.contains(x).all() and box.factor(x).value.abs().max() == 0
    at_face = torch.stack([x == torch.tensor(box.low), x == torch.tensor(box.high)], -1).flatten(1)
    assert (at_face.sum(1) == 1).all()
    areas = torch.tensor([2.0, 2.0, 4.0, 4.0, 8.0, 8.0]) / 28
    assert stats.chisquare(at_face.sum(0).numpy(), (N * areas).numpy(), sum_check=False).pvalue > 1e-3
    for i, (low, high) in enumerate(box.input_range("volume")):
        assert p_uniform(x[~at_face.unflatten(1, (3, 2))[:, i].any(1), i], low, high) > 1e-3


def test_a_box_is_the_same_however_its_sides_are_given():
    given = [Box(2, 0, 1), Box(2, 0.0, 1.0), Box(2, (0, 0), (1, 1)), Box(2, [0.0, 0.0], 1), Box(2, torch.zeros(2), 1)]
    drawn = [torch.cat([draw(box, part, n=5) for part in ("interior", "boundary")]) for box in given]
    assert all(torch.equal(x, drawn[0]) for x in drawn)
    assert all(box.frame() == ([0.5, 0.5], 0.5) for box in given)
    assert given[0] == given[1] and len({hash(box) for box in given[:2]}) == 1 and given[3].low == (0.0, 0.0)
    assert Box(2, 0, (4, 2)).frame() == ([2.0, 1.0], [2.0, 1.0])
    assert Cylinder(Box(2, 0, (4, 2)), 3.0).frame() == ([2.0, 1.0, 1.5], [2.0, 1.0, 1.5])


NO_DOMAINS = {
    "Box: low and high: given 1 and 0": lambda: Box(2, 1.0, 0.0),
    "Box: low and high of coordinate 1: given 0 and 0": lambda: Box(2, 0.0, (1.0, 0.0)),
    "Box: high: given 3 numbers, needed is one, or 2": lambda: Box(2, 0.0, (1.0, 1.0, 1.0)),
    "Box: high: given inf": lambda: Box(2, 0.0, float("inf")),
    "Box: low: given .*nan": lambda: Box(2, (0.0, float("nan")), 1.0),
    "Box: low: given 'a'": lambda: Box(1, "a", 1.0),
    "Box: dim: given 0": lambda: Box(0),
    "Ball: dim: given 2.5": lambda: Ball(2.5),
    "Ball: dim: given -1": lambda: Ball(-1),
    "Ball: radius: given 0": lambda: Ball(2, 0.0),
    "Ball: radius: given nan": lambda: Ball(2, float("nan")),
    "Ball: radius: given '1'": lambda: Ball(2, "1"),
    "Cylinder: time: given -1": lambda: Cylinder(Ball(2), -1.0),
    "Cylinder: time: given inf": lambda: Cylinder(Ball(2), float("inf")),
    "the domain int lacks dim, laws, interior": lambda: Cylinder(2),
}


@pytest.mark.parametrize("message", NO_DOMAINS)
def test_what_is_no_domain_is_refused_in_one_line(message):
    with pytest.raises(ConfigError, match=message) as info:
        NO_DOMAINS[message]()
    one_line(info)


# Domains of one's own -----------------------------------------------------------------------------------------------


def made_of(base: type, *left_out: str) -> type:
    """A class with the members of a disc, less those left out."""
    disc = Ball(2)
    members = {name: getattr(disc, name) for name in MEMBERS if name not in left_out}
    return type("Disc", (base,), {k: staticmethod(v) if callable(v) else v for k, v in members.items()})


@pytest.mark.parametrize("left_out", [(name,) for name in MEMBERS] + [("laws", "factor", "frame"), MEMBERS])
def test_a_domain_that_lacks_a_member_is_refused_when_it_is_made(left_out):
    with pytest.raises(TypeError, match=f"the domain Disc lacks {', '.join(left_out)}:") as info:
        made_of(Domain, *left_out)()
    one_line(info)
    assert isinstance(info.value, ConfigError)


def test_what_a_domain_sets_when_it_is_made_is_there():
    class Given(made_of(Domain, "dim", "laws")):
        def __init__(self, dim):
            self.dim, self.laws = dim, ("volume",)

    assert Given(2).dim == 2
    assert all(getattr(Domain, name).__doc__ for name in MEMBERS if hasattr(Domain, name))
    assert all(isinstance(domain, Domain) for domain in DOMAINS.values())


# Factors -----------------------------------------------------------------------------------------------------------

FORMULAS = {
    "ball": lambda x: 1 - x.square().sum() / 4,
    "ball-1": lambda x: 1 - x.square().sum(),
    "box": lambda x: (4 * (x + 0.5) * (2 - x) / 6.25).prod(),
    "box-1": lambda x: (4 * x * (1 - x)).prod(),
    "ball-time": lambda x: x[-1] * (1 - x[:-1].square().sum() / 0.49),
    "box-time": lambda x: x[-1] * (4 * (x[:-1] - 1) * (2 - x[:-1])).prod(),
    "box-axes": lambda x: x[0] * (2 - x[0]) * 4 * (x[1] + 1) * -x[1],
    "box-axes-time": lambda x: x[-1] * x[0] * (2 - x[0]) * 4e6 * x[1] * (1e-3 - x[1]),
}


@pytest.mark.parametrize("part", ["interior", "boundary"])
@pytest.mark.parametrize("name", DOMAINS)
def test_factor_equals_autograd(name, part):
    """Value, gradient, Hessian diagonal and weighted Laplacian; on the boundary too, where a factor is 0."""
    x = draw(DOMAINS[name], part, n=7)
    m, formula = DOMAINS[name].factor(x), FORMULAS[name]
    curvature = vmap(hessian(formula))(x).diagonal(dim1=-2, dim2=-1)
    assert (m.value - vmap(formula)(x)).abs().max() < 1e-14
    close(m.grad, vmap(grad(formula))(x), 1e-13)
    close(m.hessian_diagonal.expand_as(x), curvature, 1e-13)
    weights = points(*x.shape, seed=4)
    for s in (weights, weights[:1]):
        close(m.lap(s), (s * curvature).sum(-1), 1e-13)


def test_factor_of_a_box_has_no_division():
    """In a corner two factors vanish: the gradient is 0, not NaN."""
    m = Box(3).factor(torch.tensor([[-1.0, 1.0, 0.2], [-1.0, 0.0, 0.0]], dtype=F64))
    assert m.grad.tolist() == [[0, 0, 0], [2, 0, 0]] and m.hessian_diagonal.isfinite().all()


@pytest.mark.parametrize("name", DOMAINS)
def test_factor_is_one_at_most_and_differentiable_in_x(name):
    x = draw(DOMAINS[name], "interior", n=5).requires_grad_()
    m = DOMAINS[name].factor(x)
    assert (m.value <= getattr(DOMAINS[name], "time", 1.0)).all()
    close(torch.autograd.grad(m.value.sum(), x, retain_graph=True)[0], m.grad.detach(), 1e-13)
    rows = [torch.autograd.grad(g.sum(), x, retain_graph=True)[0][:, i] for i, g in enumerate(m.grad.unbind(1))]
    close(torch.stack(rows, 1), m.hessian_diagonal.detach().expand_as(x), 1e-13)


# Sequences and streams ---------------------------------------------------------------------------------------------


@both_sequences
@pytest.mark.parametrize("part", ["interior", "boundary"])
@pytest.mark.parametrize("name", DOMAINS)
def test_points_are_determined_by_the_generator_alone(name, part, sequence):
    before, g = torch.get_rng_state(), generator(3)
    first, second = (getattr(DOMAINS[name], part)(9, g, dtype=F64, sequence=sequence) for _ in range(2))
    assert torch.equal(first, draw(DOMAINS[name], part, 9, seed=3, sequence=sequence))
    assert not torch.equal(first, second) or (part == "boundary" and DOMAINS[name].dim == 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_sobol_is_reproducible_differs_on_the_next_call_and_fills_evenly():
    g = generator(3)
    first, second = uniforms(64, 5, g, "sobol", dtype=F64), uniforms(64, 5, g, "sobol", dtype=F64)
    assert torch.equal(first, uniforms(64, 5, generator(3), "sobol", dtype=F64)) and first.dtype == F64
    assert not torch.equal(first, second)
    for x in (first, second):  # one point in each of 64 cells of each coordinate, which random points do not have
        assert ((64 * x).long().sort(0).values == torch.arange(64)[:, None]).all()
    assert ((64 * uniforms(64, 5, g, dtype=F64)).long().sort(0).values != torch.arange(64)[:, None]).any()


@pytest.mark.parametrize("part", ["interior", "boundary"])
def test_sobol_in_too_many_dimensions_is_refused_in_one_line(part):
    assert SOBOL_MAX_DIM == torch.quasirandom.SobolEngine.MAXDIM == 21_201
    with pytest.raises(ValueError, match="21201.*random") as info:
        draw(Box(SOBOL_MAX_DIM + 1), part, 2, sequence="sobol")
    one_line(info)
    with pytest.raises(ValueError, match="21201"):
        draw(Ball(SOBOL_MAX_DIM + 1), part, 2, sequence="sobol")
    assert draw(Box(SOBOL_MAX_DIM), part, 2, sequence="sobol").shape == (2, SOBOL_MAX_DIM)


def test_directions_have_length_one():
    for g in (directions(50, 3, generator(), dtype=F64), directions(50, 3, generator(), points(50, 3, reach=1).abs())):
        close(g.norm(dim=1), torch.ones(50, dtype=F64), 1e-14)
    ends = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]], dtype=F64)
    close(directions(2, 3, generator(), ends).norm(dim=1), torch.ones(2, dtype=F64), 1e-14)


def test_streams_are_reproducible_and_independent():
    names = ["init", "interior", "boundary", "operator", "test"]
    numbers = {(seed, name): torch.randn(N, generator=stream(seed, name)) for seed in (0, 1) for name in names}
    for key, sample in numbers.items():
        assert torch.equal(sample, torch.randn(N, generator=stream(*key)))
    correlation = torch.corrcoef(torch.stack(list(numbers.values()))) - torch.eye(len(numbers))
    assert correlation.abs().max() < 4.5 / N**0.5
    a, b = stream(0, "interior"), stream(0, "boundary")
    torch.randn(N, generator=b)  # one stream does not move the other, nor the global one
    assert torch.equal(torch.randn(N, generator=a), numbers[0, "interior"])


def test_stream_of_a_name_is_the_same_in_every_process():
    """Not Python's salted hash: a fixed number."""
    assert stream(0, "interior").initial_seed() == 9176261072213445598


# The pool ----------------------------------------------------------------------------------------------------------


def pool_of(refresh, seed: int = 0) -> tuple[Pool, torch.Generator]:
    g = generator(seed)
    return Pool(lambda: torch.rand(3, generator=g), refresh), g


@pytest.mark.parametrize("refresh, draws", [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 0, 0, 1, 1, 1]), ("fixed", [0] * 6)])
def test_pool_draws_anew_when_it_says(refresh, draws):
    g = generator()
    fresh = [torch.rand(3, generator=g) for _ in range(6)]
    pool, _ = pool_of(refresh)
    for number in draws:
        assert torch.equal(pool(), fresh[number])


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("refresh", [1, 3, "fixed"])
def test_pool_continues_from_its_state(refresh, steps):
    """The state of pool and generator is all there is; it holds points only where they are used again."""
    pool, g = pool_of(refresh)
    for _ in range(steps):
        pool()
    state, generator_state = pool.state_dict(), g.get_state()
    other, h = pool_of(refresh, seed=9)
    other()
    other.load_state_dict(state)
    h.set_state(generator_state)
    for _ in range(5):
        assert torch.equal(other(), pool())
    assert refresh != 1 or state["points"] is None
