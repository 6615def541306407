"""What several processes do in test_shards.py: each has a slice of the inputs, and the first says how far they are from
one process that has all of them, `shard: points`, on the same points with the same weights.

Of a case it is the largest difference, relative to the largest number of its kind.
"""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import torch
from conftest import planned
from torch import Tensor
from worlds import apart, threads_of_gloo, trained

import kanpde
from kanpde.ground import world as worlds_of
from kanpde.ground.samplers import stream
from kanpde.ground.world import ALONE, World, joined
from kanpde.jets.gram import Diagonal, Part
from kanpde.jets.jet import Jet, push
from kanpde.jets.nested import gradient_of
from kanpde.problems import AllenCahn, Poisson, Problem, SineGordon
from kanpde.problems.base import own
from kanpde.runs.models import Run
from kanpde.training import ladder
from kanpde.training.checkpoints import load_checkpoint
from kanpde.training.loop import ResidualTraining
from kanpde.training.shards import sliced_names

KAN, META = {"name": "kan", "widths": [4]}, {"name": "metakan", "widths": [4, 3], "meta_hidden": 6}
SMALL = {
    "solver": "adam",
    "backbone": KAN,
    "dtype": "float64",
    "compile": False,
    "points": {"interior": 7, "test": 64, "validation": 16, "refresh": "fixed"},
    "evaluation": {"every": 2},
}
GRADIENT = {"loss": {"gradient": "almost_everywhere", "weights": {"gradient": 0.3}}}
MANY = {"points": {**SMALL["points"], "interior": 40}}  # more than a polynomial has coefficients
FRESH = {"points": {**SMALL["points"], "refresh": 1}}
WIDE = {"backbone": {**KAN, "centred": True, "widths": [3]}, "points": {**SMALL["points"], "interior": 2}}
CASES: dict[str, tuple[Problem, dict]] = {
    "kan, two_body": (SineGordon(9), {}),
    "kan, three_body": (AllenCahn(11, solution="three_body"), {}),
    "kan, scaled, bias": (Poisson(9, solution="scaled"), {"backbone": {**KAN, "bias": True, "centred": True}}),
    "kan, gradient": (SineGordon(9), GRADIENT),
    "metakan": (SineGordon(9), {"backbone": META}),
    "metakan, prompts of 2": (AllenCahn(9), {"backbone": {**META, "prompt_dim": 2, "meta_share": "layer"}}),
    "metakan, gradient": (AllenCahn(9, solution="three_body"), {"backbone": META, **GRADIENT}),
    "metakan, no bias, start": (SineGordon(9), {"backbone": {**META, "meta_bias": False}, "start": "affine"}),
    "start, gradient": (SineGordon(9), {**GRADIENT, "start": "additive"}),
    "chebykan, coupled": (Poisson(9, solution="coupled"), {"backbone": {"name": "chebykan", "widths": [4]}}),
    "more features than inputs": (SineGordon(9), {"backbone": {**KAN, "widths": [16]}}),
    "several blocks": (SineGordon(9001), WIDE),
}
TRAJECTORIES = {
    "adam, kan": (SineGordon(9), {}),
    "adam, metakan": (SineGordon(9), {"backbone": META, **GRADIENT}),
    "adamw": (SineGordon(9), {"phases": [{"optimizer": "adamw", "steps": 5, "weight_decay": 0.1, "lr": 0.01}]}),
}
RUNS = {
    "run": (SineGordon(9), {"backbone": META, **FRESH}),
    "run, constant": (SineGordon(9), {"backbone": META, "start": "constant"}),  # which is found in float32
    "run, ladder": (AllenCahn(9), {"start": "ladder", **GRADIENT, **MANY}),
}


@contextmanager
def by_itself():
    """In the block this process is alone."""
    token = worlds_of._CURRENT.set(ALONE)
    try:
        yield
    finally:
        worlds_of._CURRENT.reset(token)


def rows(t: Tensor, world: World, dim: int = 0) -> Tensor:
    """The rows of all processes, in each."""
    return world.gather(t.detach().movedim(dim, 0).contiguous()).movedim(0, dim)


def whole(u, state: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    names = sliced_names(u)
    return {name: rows(t, world) if name in names else t.detach().clone() for name, t in state.items()}


def pair(problem: Problem, given: dict, world: World, folder: Path) -> tuple[ResidualTraining, ResidualTraining]:
    """A training of the slices, and one of all inputs with the same weights and points."""
    several = ResidualTraining(
        planned(own(problem), {**SMALL, **given, "shard": "inputs"}), Run(folder / "n.h5"), world
    )
    with by_itself():
        one = ResidualTraining(planned(own(problem), {**SMALL, **given}), Run(folder / "n.h5"))
    if several.u.start is not None:  # numbers for a polynomial
        for name, size in (("a", 0.3), ("b", 0.2)):
            drawn = torch.randn(problem.dim, generator=stream(0, name), dtype=torch.float64)
            getattr(several.u.start, name).copy_(size * several.plan.problem.input_slice.cut(drawn))
        several.u.start.c.fill_(0.7)
    one.u.load_state_dict(whole(several.u, several.u.state_dict(), world))
    one.supply.pools["interior"].points = rows(several.supply.pools["interior"](), world, 1)
    one.supply.pools["interior"].age = 1
    return several, one


def jets(several: ResidualTraining, one: ResidualTraining, world: World) -> dict[str, float]:
    """Of the first layer, whatever is asked of it, and of u with the source."""
    x, y = (training.supply.pools["interior"].points for training in (several, one))
    found = {}
    for wanted in (Part.NONE, Part.DIAGONAL, Part.FULL):
        jet = lambda x: Jet(x, -2 * x.unsqueeze(1), Diagonal(torch.ones_like(x[:1])))
        a, b = (push(t.u.net[0], jet(x), wanted) for t, x in ((several, x), (one, y)))
        for name in ("value", "along", "lap"):
            found[f"{name}, {wanted}"] = apart(getattr(a, name), getattr(b, name))
        if wanted == Part.FULL:
            found["gram"] = apart(a.gram.dense(), b.gram.dense())
        if wanted == Part.DIAGONAL:
            found["diagonal"] = apart(a.gram.diagonal(), b.gram.diagonal())
    a, b = (t.objective.operator(t.u, x) for t, x in ((several, x), (one, y)))
    found |= {"u": apart(a.value, b.value), "lap u": apart(a.lap, b.lap)}
    for name in ("source", "exact", "untrained"):
        a, b = (getattr(t.plan.problem, name)(x) for t, x in ((several, x), (one, y)))
        found[name] = apart(a, b)
    a, b = (
        gradient_of(t.plan.problem.source(at), at) for t, x in ((several, x), (one, y)) for at in [x.requires_grad_()]
    )
    found["slope of the source"] = apart(rows(a, world, 1), b)
    polynomials = several.plan.problem.taylor_polynomials(x)
    value, grad, second, off = (torch.as_tensor(t, dtype=y.dtype) for t in one.plan.problem.taylor())
    wanted = value + y @ grad + 0.5 * y.square() @ second + (y[:, :-1] * y[:, 1:]) @ off
    found["taylor2"] = (polynomials["taylor2"] - wanted).abs().max().item() / max(1e-3, wanted.abs().max().item())
    x.requires_grad_(False), y.requires_grad_(False)
    return found


def gradients(several: ResidualTraining, one: ResidualTraining, world: World) -> dict[str, float]:
    """Loss, its terms, and the gradient by every parameter, of slices their rows."""
    a, b = (t.objective.backward(t.supply.points(), t.supply.probes) for t in (several, one))
    found = {"loss": apart(a, b)}
    found |= {name: apart(several.objective.terms[name], term) for name, term in one.objective.terms.items()}
    mine = whole(several.u, {name: p.grad for name, p in several.u.named_parameters()}, world)
    wanted = {name: p.grad for name, p in one.u.named_parameters()}
    assert mine.keys() == wanted.keys() and all(g.abs().max() > 0 for g in wanted.values())
    return found | {f"gradient of {name}": apart(g, wanted[name]) for name, g in mine.items()}


def equal(name: str, world: World, folder: Path) -> float:
    several, one = pair(*CASES[name], world, folder)
    found = jets(several, one, world) | gradients(several, one, world)
    return max(found.values(), key=lambda e: (e != e, e))


def trajectory(name: str, world: World, folder: Path) -> float:
    problem, given = TRAJECTORIES[name]
    several, one = pair(problem, {**given, **({} if "phases" in given else {"steps": 5})}, world, folder)
    before = torch.nn.utils.parameters_to_vector(one.u.parameters()).detach().clone()
    wanted, _ = trained(one), trained(several)
    assert apart(before, wanted) > 1e-4, "nothing was trained"
    assert world.agree(several.parts.shared)
    found = whole(several.u, dict(several.u.named_parameters()), world)
    return max(apart(found[name], p) for name, p in one.u.named_parameters())


def climbed(name: str, world: World, folder: Path) -> float:
    """The coefficients of each rung on the same points."""
    problem = {"two_body": SineGordon(9), "three_body": AllenCahn(11, solution="three_body")}[name]
    several, one = pair(problem, {"start": "ladder", **MANY}, world, folder)
    worst = 0.0
    for t in (several, one):
        for part in "cab":
            getattr(t.u.start, part).zero_()
    for rung in ("constant", "affine", "additive"):
        for t in (several, one):
            u = kanpde.Ansatz(t.plan.problem, ladder.Constant(torch.zeros(1, 1)).double(), True, t.u.start)
            equation = ladder.Equation(t.plan, u)
            t.left = ladder.solve(t.u.start, ladder.PARTS[rung], equation, dict(t.supply.points()))
        a = whole(several.u, several.u.state_dict(), world)
        b = one.u.state_dict()
        coefficients = [torch.cat([state[f"start.{part}"] for part in "cab"]) for state in (a, b)]
        worst = max(worst, apart(several.left, one.left), apart(*coefficients))
    assert one.u.start.a.abs().max() > 0 and one.u.start.b.abs().max() > 0
    return worst


def begun(name: str, path: Path, steps: int = 4) -> Run:
    problem, given = RUNS[name]
    return kanpde.train(problem, out=path, **{**SMALL, **given, "shard": "inputs", "steps": steps})


def gone_on(name: str, path: Path) -> Run:
    return kanpde.resume(path, problem=RUNS[name][0], steps=6)


def numbers(path: Path) -> Tensor:
    """What a run has left: its weights, the best ones, the moments of Adam, and its errors."""
    saved = load_checkpoint(path.with_suffix(".pt"))
    moments = [t.flatten() for each in saved["optimizer"]["state"].values() for t in each.values()]
    weights = [t.flatten() for held in (saved["weights"], saved["best"]["weights"]) for t in held.values()]
    errors = [torch.tensor(Run.open(path).history[name]) for name in ("rel_l2", "validation", "off_grid/0")]
    return torch.cat([t.double() for t in (*weights, *moments, *errors)])


def run(rank: int, size: int, port: int, folder: Path) -> None:
    """A process: alone, with the others, and alone again."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    found, some = {}, RUNS if size == 2 else ["run"]
    if rank == 0:
        for name in some:
            begun(name, folder / f"{name} one.h5")
            begun(name, folder / f"{name} one, several.h5")
    with joined() as world:
        for kind, cases, measure in (("equal", CASES, equal), ("trajectory", TRAJECTORIES, trajectory)):
            found |= {f"{kind}: {name}": measure(name, world, folder) for name in cases}
        found |= {f"trajectory: start, {name}": climbed(name, world, folder) for name in ("two_body", "three_body")}
        for name in some:
            begun(name, folder / f"{name} several.h5")
            gone_on(name, folder / f"{name} one, several.h5")
        assert threads_of_gloo() or not Path("/proc/self/task").exists()
    assert not threads_of_gloo(), "the group has outlived its end, and may abort the exit"
    if rank:
        return
    for name in some:
        of = lambda which, name=name: numbers(folder / f"{name} {which}.h5")
        kind = {"run, ladder": "last step", "run, constant": "float32"}.get(name, "trajectory")
        found[f"{kind}: {name}"] = apart(of("several"), of("one"))
        gone_on(name, folder / f"{name} several.h5")
        gone_on(name, folder / f"{name} one.h5")
        found[f"{kind}: {name}, by one"] = apart(of("several"), of("one"))
        found[f"{kind}: {name}, by several"] = apart(of("one, several"), of("one"))
    (folder / "found.json").write_text(json.dumps(found))
