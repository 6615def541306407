"""What several processes do in test_world.py: each runs `run`, and the first writes how far they are from one process.

Of a case it is the largest difference, relative to the largest number, of loss, terms, gradients, weights of terms and
points, and parameters.
"""

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import F64, planned
from torch import Tensor

import kanpde
from kanpde import Unknown
from kanpde.domains import Box
from kanpde.ground.world import World, joined
from kanpde.operators import OPERATORS
from kanpde.operators.stochastic import Hutchinson, Tangents
from kanpde.problems import Function, Heat, Poisson
from kanpde.problems.base import own
from kanpde.problems.conditions import Dirichlet, Integral, Observations, Point
from kanpde.runs.models import Run
from kanpde.training import weighting
from kanpde.training.checkpoints import load_checkpoint
from kanpde.training.loop import ResidualTraining
from kanpde.training.objective import Objective

SMALL = {
    "backbone": {"name": "chebykan", "widths": [4]},
    "dtype": "float64",
    "points": {"interior": 23, "test": 64, "validation": 16},
    "evaluation": {"every": 100},
    "slices": {"points": 5, "volume": 0},
    "start": "network",
    "compile": False,
    "verify": False,
}
POINTS = SMALL["points"]
PLAIN = {"loss": {"gradient": "none"}}
FIXED = {"points": {**POINTS, "refresh": "fixed"}}
SOFT = {"constraint": "soft", "points": {**POINTS, "boundary": 9, "initial": 6}}
AT = torch.linspace(0.05, 1, 14, dtype=F64).unsqueeze(1)


def threads_of_gloo() -> int:
    """How many of this process carry messages; of the system's own names for them, where it has such."""
    tasks = Path("/proc/self/task")
    return sum("gloo" in (task / "comm").read_text() for task in (tasks.iterdir() if tasks.exists() else ()))


@dataclass(frozen=True)
class Decay(kanpde.Problem):
    """u_t = -k u with an unknown k, some observations of u, one more value of it, and its integral."""

    dim: int = 1
    coordinates = ("t",)
    k = Unknown(1.0, positive=True)
    conditions = (
        Dirichlet("t = 0", 1.0),
        Observations(AT, torch.exp(-2 * AT), noise=0.05),
        Point([[0.5]], [0.4], noise=0.1),
        Integral(0.4),
    )

    @property
    def domain(self):
        return Box(1, 0, 1)

    def residual(self, u, x):
        return u.t + self.k * u.value


class Seen(Hutchinson):
    """Directions of each point that are functions of the point: the same, whoever has it."""

    def _gram(self, x, s, generator):
        k = torch.arange(1, self.probes + 1, dtype=x.dtype).view(1, -1, 1)
        z = torch.where((977 * k * x.unsqueeze(1)).sin() > 0, 1.0, -1.0).to(x)
        return Tangents(z * (s / self.probes).sqrt().unsqueeze(-2))


def fit(**given):
    return Function(formula="exp(x)*y", ranges={"x": (-1, 1), "y": (-1, 1)}), given


# name: problem and what is set beside SMALL; micro: points at a time
GRADIENTS: dict[str, tuple] = {
    "forward": (Poisson(3), {}),
    "kan": (Poisson(3), {"backbone": {"name": "kan", "widths": [4]}}),
    "metakan": (Poisson(3), {"backbone": {"name": "metakan", "widths": [4]}}),
    "mlp": (Poisson(3), {"backbone": {"name": "mlp", "widths": [5]}}),
    "hutchinson": (Poisson(3), {"operator": {"name": "hutchinson", "probes": 2}, **PLAIN}),
    "hutchinson per point": (Poisson(3), {"operator": {"name": "seen", "probes": 2, "per_point": True}, **PLAIN}),
    "sdgd": (Poisson(3), {"operator": {"name": "sdgd", "dims": 2}, **PLAIN}),
    "two_sample": (
        Poisson(3),
        {"operator": {"name": "sdgd", "dims": 2}, "loss": {**PLAIN["loss"], "residual": "two_sample"}},
    ),
    "soft": (Heat(2), SOFT),
    "gradient": (Poisson(3), {"loss": {"gradient": "exact", "weights": {"gradient": 0.3}}}),
    "micro": (Heat(2), {**SOFT, "loss": {**PLAIN["loss"], "balance": {"name": "gradnorm", "every": 1}}, "micro": 4}),
    "gradnorm": (Heat(2), {**SOFT, "loss": {"balance": {"name": "gradnorm", "every": 1}}}),
    "ntk": (Heat(2), {**SOFT, "loss": {"balance": {"name": "ntk", "every": 1}}}),
    "relobralo": (Heat(2), {**SOFT, "loss": {"balance": {"name": "relobralo", "decay": 0.5, "lookback": 0.5}}}),
    "rba": (Poisson(3), {**FIXED, "loss": {"emphasis": {"name": "rba", "rate": 0.5}}}),
    "causal": (Heat(2), {**SOFT, "loss": {"emphasis": {"name": "causal", "bins": 4, "decay": 0.5}}}),
    "observations": (Decay(), {"loss": {"balance": {"name": "gradnorm", "every": 1}}}),
    "fit": fit(backbone={"name": "kan", "widths": [3]}),
    "sparsity": fit(backbone={"name": "kan", "widths": [3]}, loss={"sparsity": {"l1": 0.1, "entropy": 0.1}}),
}


def phases(name: str, steps: int = 2, **options) -> dict:
    return {"phases": [{"optimizer": name, "steps": steps, "options": options, "lr": 0.01}]}


TRAJECTORIES: dict[str, tuple] = {
    "adam": (Heat(2), {**SOFT, **phases("adam")}),
    "soap": (Poisson(3), phases("soap", 1)),
    "lbfgs": (Heat(2), {**SOFT, **phases("lbfgs")}),
    "gauss_newton, more rows": (
        Heat(2),
        {**SOFT, "backbone": {"name": "mlp", "widths": [3]}, **phases("gauss_newton")},
    ),
    "gauss_newton, fewer rows": (Heat(2), {**SOFT, **phases("gauss_newton", damping=30.0)}),
    "gauss_newton, momentum": (Poisson(3), phases("gauss_newton", momentum=0.9, damping=30.0)),
    "gauss_newton, cg": (Poisson(3), phases("gauss_newton", 1, solver="cg", rank=16, damping=30.0)),
    "gauss_newton, columns": (Poisson(3), phases("gauss_newton", columns=8)),
    "gauss_newton, observations": (Decay(), phases("gauss_newton", damping=1.0)),
    "gauss_newton, fit": fit(backbone={"name": "kan", "widths": [2]}, **phases("gauss_newton")),
    "levenberg_marquardt": (Heat(2), {**SOFT, **phases("levenberg_marquardt", damping=1.0)}),
    "levenberg_marquardt, observations": (Decay(), phases("levenberg_marquardt", damping=1.0)),
}
SLOW = (
    "gauss_newton, momentum",
    "gauss_newton, cg",
    "gauss_newton, columns",
)  # too many messages for four on two cores
RESUMED = {
    "adam": (Heat(2), {**SOFT, "points": {**SOFT["points"], "refresh": "fixed"}, **phases("adam", 3)}),
    "lbfgs": (Poisson(3), phases("lbfgs", 3)),
    "rba": (Poisson(3), {**GRADIENTS["rba"][1], **phases("adam", 3)}),
    "observations": (Decay(), {**FIXED, **phases("gauss_newton", 3)}),
    "fit": fit(**phases("lbfgs", 3)),
}


def apart(found, wanted) -> float:
    """The largest difference, relative to the largest number."""
    a, b = (torch.as_tensor(t, dtype=F64).detach() for t in (found, wanted))
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()


def joint(training: ResidualTraining, points: dict[str, Tensor]) -> dict[str, Tensor]:
    """The points of all processes; of fewer rows than processes each has all."""
    world, counts = training.world, training.plan.counts
    found = {name: x if counts[name] < world.size else world.gather(x) for name, x in points.items()}
    assert {name: len(x) for name, x in found.items()} == counts
    return found


@contextmanager
def plain_signs(name: str):
    """In the block the random signs of the balance ntk are 1: processes draw others than one."""
    before = weighting._signed_sum
    weighting._signed_sum = (lambda r, generator: r.sum()) if name == "ntk" else before
    try:
        yield
    finally:
        weighting._signed_sum = before


def gradient(name: str, world: World, folder: Path) -> float:
    """Of three steps, of which the second and third have seen balances and emphases move."""
    problem, given = GRADIENTS[name]
    given, most = SMALL | {k: v for k, v in given.items() if k != "micro"}, given.get("micro")
    training = ResidualTraining(planned(own(problem), given), Run(folder / "none.h5"), world)
    plan = planned(own(problem), given)
    mine, one, worst = training.objective, Objective(plan, plan.ansatz()), []
    mine.micro_batch = one.micro_batch = most
    for _ in range(3):
        points = training.supply.points()
        state = world.collect(training.supply.probes.get_state())[0]  # what the first draws for all counts
        probes = torch.Generator().set_state(state)
        loss = mine.backward(points, training.supply.probes)
        worst.append(apart(loss, one.backward(joint(training, points), probes)))
        worst += [apart(mine.terms[name], term) for name, term in one.terms.items()]
        worst += [apart(mine.weights([name])[name], w) for name, w in one.weights(list(one.terms)).items()]
        held = mine.emphasis.weights(points["interior"]) if mine.emphasis else None
        if held is not None:
            x = world.gather(points["interior"])
            worst.append(apart(world.gather(held), one.emphasis.weights(x)))
        pairs = list(zip(mine.u.parameters(), one.u.parameters(), strict=True))
        whole = max(q.grad.abs().max() for _, q in pairs)
        worst += [apart(p.grad / whole, q.grad / whole) * (q.grad.abs().max() / whole).item() for p, q in pairs]
        for p, q in pairs:
            q.data -= 0.05 * q.grad / whole
            p.data.copy_(q.data)
            p.grad = q.grad = None
    return max(worst) if world.leads else 0.0


def trained(training: ResidualTraining) -> Tensor:
    """The parameters after the phases, without evaluations."""
    for phase, last in training._phases():
        while training.step < last:
            training._step(phase, last)
    return torch.nn.utils.parameters_to_vector(training.u.parameters())


def trajectory(name: str, world: World, folder: Path) -> float:
    problem, given = TRAJECTORIES[name]
    given = SMALL | given
    given["points"] = {**given["points"], "refresh": "fixed"}
    several = ResidualTraining(planned(own(problem), given), Run(folder / "none.h5"), world)
    one = ResidualTraining(planned(own(problem), given), Run(folder / "none.h5"))
    before = torch.nn.utils.parameters_to_vector(one.u.parameters()).detach().clone()
    for kind, x in joint(several, several.supply.points()).items():
        one.supply.pools[kind].points = x
    wanted, found = trained(one), trained(several)
    assert apart(before, wanted) > 1e-4, "nothing was trained"
    assert world.agree(list(several.u.parameters()))
    return max(apart(found, wanted), apart(several.state.loss, one.state.loss))


def alike(world: World, folder: Path) -> float:
    """Whether processes make the same steps of SOAP, beyond the first of which rounding decides on directions."""
    training = ResidualTraining(planned(Poisson(3), SMALL | phases("soap", 6)), Run(folder / "none.h5"), world)
    trained(training)
    return float(not world.agree(list(training.u.parameters())))


def weights(path: Path) -> Tensor:
    return torch.cat([t.flatten().double() for t in load_checkpoint(path.with_suffix(".pt"))["weights"].values()])


def begun(name: str, path: Path) -> None:
    problem, given = RESUMED[name]
    kanpde.train(problem, out=path, **SMALL | given)


def gone_on(name: str, path: Path) -> None:
    kanpde.resume(path, problem=RESUMED[name][0], steps=6)


def copied(path: Path, name: str) -> Path:
    to = path.with_name(f"{name}.h5")
    for suffix in (".h5", ".pt"):
        shutil.copy(path.with_suffix(suffix), to.with_suffix(suffix))
    return to


def copies(path: Path) -> None:
    for which in ("one", "same"):
        copied(path, f"{path.stem}, {which}")


def run(rank: int, size: int, port: int, folder: Path) -> None:
    """A process: alone, with the others, and alone again."""
    torch.set_num_threads(1)
    OPERATORS["seen"] = Seen
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    leads, found = rank == 0, {}
    some = RESUMED if size == 2 else ["adam", "observations"]
    steps = [name for name in TRAJECTORIES if size == 2 or name not in SLOW]
    if leads:
        for name in some:
            begun(name, folder / f"{name} one.h5")
            gone_on(name, copied(folder / f"{name} one.h5", f"{name} one, one"))
            copied(folder / f"{name} one.h5", f"{name} one, several")
    with joined() as world:
        for kind, cases, measure in (("gradient", GRADIENTS, gradient), ("trajectory", steps, trajectory)):
            for name in cases:
                with plain_signs(name):
                    found[f"{kind}: {name}"] = measure(name, world, folder)
        found["trajectory: alike"] = alike(world, folder)
        for name in some:
            gone_on(name, folder / f"{name} one, several.h5")
            begun(name, folder / f"{name} several.h5")
            world.first(lambda at=folder / f"{name} several.h5": copies(at))
            gone_on(name, folder / f"{name} several, same.h5")
    if not leads:
        return
    for name in some:
        gone_on(name, folder / f"{name} several, one.h5")
        of = lambda which, name=name: weights(folder / f"{name} {which}.h5")
        found[f"resumed: {name} by several"] = apart(of("one, several"), of("one, one"))
        found[f"resumed: {name} by one"] = apart(of("several, one"), of("several, same"))
    (folder / "found.json").write_text(json.dumps(found))
