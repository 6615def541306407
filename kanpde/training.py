"""Training: a visible loop over phases of optimisers, with evaluation, exact checkpoints, and callbacks."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor, nn

from kanpde import memory, metrics, setup
from kanpde.ansatz import Ansatz
from kanpde.config import PhaseConfig, RunConfig
from kanpde.evaluation import Evaluator
from kanpde.losses import Points
from kanpde.optimisers import make_optimizer, schedule
from kanpde.record import Run, replacing
from kanpde.samplers import Pool, stream
from kanpde.session import Clock, interruptible


class RunFailed(RuntimeError):
    """A run that had to end: a loss that is not finite, or a disk that is full. One line; nothing computed is lost."""


class WriteFailed(RunFailed):
    """A result that could not be written; the last good files are intact."""


@dataclass
class State:
    """What callbacks see: the run so far.

    step counts optimiser updates, loss and terms are those of this step's points, row is the last row of the history.
    """

    run: Run
    u: Ansatz
    step: int = 0
    steps: int = 0
    phase: int = 0
    loss: float = float("nan")
    terms: dict[str, float] | None = None
    row: dict[str, float] | None = None
    steps_per_s: float = float("nan")


Callback = Callable[[State], bool | None]


class Training:
    """One run: problem, network, points, optimiser, and all that a checkpoint holds."""

    def __init__(self, config: RunConfig, problem, net: nn.Module, run: Run):
        self.config, self.run = config, run
        self.device, self.dtype = torch.device(config.device), getattr(torch, config.dtype)
        self.u = Ansatz(problem, net, config.constraint == "hard").to(self.device, self.dtype)
        self.operator = setup.operator(config, problem)
        self.loss = setup.loss(config)
        self.streams = {name: stream(config.seed, name, self.device) for name in ("interior", "boundary", "operator")}
        self.pools = self._pools()
        self.evaluator = Evaluator(config, self.u)
        self.state = State(run, self.u, steps=config.steps)
        self.best: dict = {"score": float("inf"), "step": 0, "weights": None, "stale": 0}
        self.elapsed = 0.0  # wall-clock seconds of earlier sessions
        self.saved_bytes = float("nan")
        self.micro_batch = memory.micro_batch(config, problem, net)  # points of each kind at a time; None: all
        self._shrunk = False
        self.optimizer: torch.optim.Optimizer | None = None

    def _pools(self) -> dict[str, Pool]:
        points, domain = self.config.points, self.u.problem.domain
        kind = {"sequence": points.sequence, "dtype": self.dtype}
        inside, edge = self.streams["interior"], self.streams["boundary"]
        draw = {
            "interior": lambda n: domain.interior(n, inside, points.law, **kind),
            "boundary": lambda n: domain.boundary(n, edge, **kind),
            "initial": lambda n: domain.initial(n, edge, points.law, **kind),
        }
        return {
            name: Pool(lambda name=name, n=n: draw[name](n), points.refresh)
            for name, n in setup.counts(self.config, self.u.problem).items()
        }

    # -----------------------------------------------------------------------------------------------------------
    # The loop

    def loop(self, on_step: Callback | None = None, on_evaluation: Callback | None = None) -> str:
        """Train to the end, a stop criterion, a callback that returns True, or Ctrl-C; returns the status.

        Raises:
            RunFailed: a term or the weights are not finite, or a result that cannot be written.
        """
        state, self.memory = self.state, metrics.PeakMemory(self.device)
        self.clock = Clock(self.elapsed, state.step)
        with interruptible() as interrupted:
            if state.row is None and self.evaluate(on_evaluation):
                return "finished"
            for phase, optimizer, last in self._phases():
                while state.step < last:
                    self._step(phase, optimizer, last)
                    stop = bool(on_step and on_step(state))
                    if self._due():
                        stop = self.evaluate(on_evaluation) or stop
                    if interrupted():
                        return "interrupted"
                    if stop:
                        return "finished"
        return "finished"

    def _due(self) -> bool:
        """Whether this step is followed by an evaluation."""
        step, seconds = self.state.step, self.config.stop.seconds
        out_of_time = seconds is not None and self.clock.seconds() >= seconds
        return step % self.config.evaluation.every == 0 or step == self.state.steps or out_of_time

    def _phases(self):
        """(phase, its optimiser, its last step) for the phases not yet done; the optimiser of a resumed one goes on."""
        last = 0
        for number, phase in enumerate(self.config.phases):
            last += phase.steps
            if self.state.step >= last:
                continue
            if self.optimizer is None or number != self.state.phase:
                self.state.phase = number
                self.optimizer = make_optimizer(phase, self.u)
                for pool in self.pools.values():
                    pool.freeze() if phase.optimizer == "lbfgs" else pool.thaw()
            yield phase, self.optimizer, last

    def _step(self, phase: PhaseConfig, optimizer: torch.optim.Optimizer, last: int) -> None:
        """One update. Points are drawn once, so that every evaluation of the loss within it sees the same."""
        state = self.state
        factor = schedule(phase, state.step - (last - phase.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        frozen = phase.optimizer == "lbfgs"
        points = {name: pool() for name, pool in self.pools.items()}
        probes = self.streams["operator"]
        start = probes.get_state() if frozen else None

        def closure() -> Tensor:
            if start is not None:
                probes.set_state(start)  # a line search needs one function: the same probes at every call
            optimizer.zero_grad()
            try:
                return self._backward(points, probes)
            except torch.OutOfMemoryError:
                if self._shrunk:
                    raise
                self._shrink(points)
            return closure()

        optimizer.step(closure)
        if frozen:
            probes.set_state(start)
        state.step += 1

    def _backward(self, points: Points, probes: torch.Generator) -> Tensor:
        """The loss at these points, its gradient added up over micro-batches."""
        state, sums = self.state, {}
        for part, shares in self._parts(points):
            with metrics.saved_memory(self.u) if self.saved_bytes != self.saved_bytes else nullcontext() as saved:
                terms = self.loss.terms(self.u, self.operator, part, probes)
                terms = {name: term * shares[name] if name in shares else term for name, term in terms.items()}
                loss = self.loss.total(terms)
            if saved is not None:
                self.saved_bytes = saved()
            sums |= {name: sums.get(name, 0.0) + term.item() for name, term in terms.items()}
            state.terms, state.loss = sums, self.loss.total(sums)
            self._check_finite()
            loss.backward()
        return torch.tensor(state.loss, dtype=torch.float64)

    def _parts(self, points: Points) -> Iterator[tuple[Points, dict[str, float]]]:
        """Micro-batches, and the share of each in the mean of a term; a term without points of its own counts once."""
        most = max(map(len, points.values()))
        count = -(-most // (self.micro_batch or most))
        cut = {name: x.tensor_split(count) for name, x in points.items()}
        for i in range(count):
            part = {name: pieces[i] for name, pieces in cut.items() if len(pieces[i])}
            shares = {name: len(x) / len(points[name]) for name, x in part.items()}
            yield part, {**dict.fromkeys(self.u.problem.terms, 1 / count), **shares} if count > 1 else {}

    def _shrink(self, points: Points) -> None:
        """After running out of memory: half the points at a time, once for all."""
        most = max(map(len, points.values()))
        self._shrunk, self.micro_batch = True, -(-min(self.micro_batch or most, most) // 2)
        warnings.warn(f"out of memory: from now on {self.micro_batch} points at a time", stacklevel=2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_finite(self) -> None:
        bad = [name for name, value in self.state.terms.items() if not abs(value) < float("inf")]
        if bad or not abs(self.state.loss) < float("inf"):
            first = bad[0] if bad else "the weighted sum"
            value = self.state.terms.get(first, self.state.loss)
            raise RunFailed(f"step {self.state.step + 1}: the loss term {first} is {value}, first of all terms")

    # -----------------------------------------------------------------------------------------------------------
    # Evaluation and files

    def evaluate(self, on_evaluation: Callback | None = None) -> bool:
        """Measure the errors, log a row, keep the best weights, write both files; returns whether to stop."""
        state, stop = self.state, self.config.stop
        score = self.evaluator.validation_score(self.loss, self.operator)
        if not score < float("inf") or not all(p.isfinite().all() for p in self.u.parameters()):
            raise RunFailed(f"step {state.step}: the weights are not finite (validation error {score})")
        if score < self.best["score"]:
            weights = {k: v.detach().clone() for k, v in self.u.state_dict().items()}
            self.best = {"score": score, "step": state.step, "weights": weights, "stale": 0}
        else:
            self.best["stale"] += 1
        wall = self.clock.seconds()
        state.steps_per_s = self.clock.rate(state.step)
        state.row = {
            "step": state.step,
            "loss": state.loss,
            **self.evaluator.test_errors(),
            "wall_s": wall,
            "steps_per_s": state.steps_per_s,
            "peak_memory_bytes": max(self.memory.bytes(), (state.row or {}).get("peak_memory_bytes", 0)),
            "saved_memory_bytes": self.saved_bytes,
            "lr": self._learning_rate(),
            "validation": score,
            **{f"terms/{name}": value for name, value in (state.terms or {}).items()},
            **{f"weights/{name}": self.loss.weights.get(name, 1.0) for name in (state.terms or self.pools)},
            **self.evaluator.off_grid(),
            **self._estimator_variance(),
            **self._problem_parameters(),
        }
        self.run.log(state.row)
        asked = bool(on_evaluation and on_evaluation(state))
        self.save("running")
        return (
            asked
            or (stop.error is not None and score <= stop.error)
            or (stop.seconds is not None and wall >= stop.seconds)
            or (stop.patience is not None and self.best["stale"] >= stop.patience)
        )

    def _estimator_variance(self) -> dict[str, float]:
        """The variance that a stochastic operator adds to the squared residual, at the points of the last step."""
        x = self.pools["interior"].points
        if x is None or not hasattr(self.operator, "variance"):
            return {}
        scale = self.u.problem.residual_scale if self.loss.scale == "2d" else 1.0
        generator = stream(self.config.seed, f"variance/{self.state.step}", self.device)
        return {"estimator_variance": scale**2 * self.operator.variance(self.u, x, generator=generator).mean().item()}

    def _problem_parameters(self) -> dict[str, float]:
        """The unknowns of an inverse problem, where they are few."""
        module = self.u.problem_parameters or nn.Module()
        named = [(name, p.detach().flatten().tolist()) for name, p in module.named_parameters()]
        return {
            f"parameters/{name}" + (f".{i}" if len(values) > 1 else ""): value
            for name, values in named
            if len(values) <= 16
            for i, value in enumerate(values)
        }

    def _learning_rate(self) -> float:
        return max(group["lr"] for group in self.optimizer.param_groups) if self.optimizer else float("nan")

    def finish(self) -> None:
        """The test error of the last and the best weights, the field and the slices."""
        run, evaluator, best = self.run, self.evaluator, self.best
        last = {k: v.detach().clone() for k, v in self.u.state_dict().items()}
        found, field, digest = evaluator.full_test()
        run.attrs["rel_l2_last"] = found["rel_l2"]
        try:
            if best["step"] != self.state.step:
                self.u.load_state_dict(best["weights"])
                found, field, digest = evaluator.full_test()
            slices = evaluator.slices()
        finally:
            self.u.load_state_dict(last)
        run.attrs.update(
            best_step=best["step"],
            rel_l2_best=found["rel_l2"],
            test_points=len(field["u"]),
            test_points_sha256=digest,
            history_points=evaluator.history_points(),
            **{f"skill_{name}": found["rel_l2"] / floor for name, floor in run.floors.items() if floor},
        )
        run.set_field({name: t.numpy() for name, t in field.items()})
        run.set_slices(slices)

    def save(self, status: str) -> None:
        """Write the checkpoint and the result file, each replaced whole."""
        run = self.run
        run.attrs.update(status=status, finished=now(), steps=self.state.step)
        try:
            with replacing(run.checkpoint) as temporary:
                torch.save(self.state_dict(), temporary)
            run.save()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            if shutil.disk_usage(run.path.parent).free < 2**20:
                reason = "no space left on the disk"
            intact = "; the last good file is intact" if run.path.exists() else ""
            raise WriteFailed(f"{run.path} cannot be written ({reason}){intact}") from None

    def fail(self, message: str) -> None:
        """Say in the result file, if there is one and it can be written, why the run ended; leave the checkpoint."""
        if self.run.path.exists():
            self.run.attrs.update(status="failed", message=message, finished=now(), steps=self.state.step)
            with suppress(OSError, RuntimeError):
                self.run.save()

    def state_dict(self) -> dict:
        """Everything that a bit-exact continuation needs."""
        state = self.state
        return {
            "weights": self.u.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "streams": {name: generator.get_state() for name, generator in self.streams.items()},
            "pools": {name: pool.state_dict() for name, pool in self.pools.items()},
            "step": state.step,
            "phase": state.phase,
            "loss": state.loss,
            "terms": state.terms,
            "row": state.row,
            "history": self.run.history,
            "floors": self.run.floors,
            "saved_bytes": self.saved_bytes,
            "micro_batch": self.micro_batch,
            "elapsed": self.clock.seconds(),
        }

    def load_state_dict(self, saved: dict) -> None:
        state = self.state
        self.u.load_state_dict(saved["weights"])
        self.best = saved["best"]
        state.step, state.phase, state.loss = saved["step"], saved["phase"], saved["loss"]
        state.terms, state.row = saved["terms"], saved["row"]
        if saved["optimizer"] is not None:
            self.optimizer = make_optimizer(self.config.phases[state.phase], self.u)
            self.optimizer.load_state_dict(saved["optimizer"])
        for name, generator in self.streams.items():
            generator.set_state(saved["streams"][name].cpu())
        for name, pool in self.pools.items():
            pool.load_state_dict(saved["pools"][name], self.device)
        self.run.history = {k: list(v) for k, v in saved["history"].items()}
        self.run.floors = saved["floors"]
        self.saved_bytes, self.elapsed = saved["saved_bytes"], saved["elapsed"]
        self.micro_batch = saved.get("micro_batch", self.micro_batch)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
