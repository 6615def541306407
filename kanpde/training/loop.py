"""Training on residuals: a visible loop over the steps of phases, evaluations, the best state, exact checkpoints."""

import copy
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kanpde.config import PhaseConfig
from kanpde.ground.metrics import give_back
from kanpde.ground.samplers import stream
from kanpde.ground.world import ALONE, World
from kanpde.jets.ansatz import Ansatz
from kanpde.kan.grids import refine, update_grid
from kanpde.kan.network import count_parameters
from kanpde.optim.optimisers import OPTIMISERS, make_optimizer, of_optimizer, schedule
from kanpde.problems.unknowns import reported
from kanpde.records.run import RunFile
from kanpde.training import ladder, remaining, start, steps, verifying
from kanpde.training.checkpoints import refine_grids
from kanpde.training.ending import Ending, at_first
from kanpde.training.evaluation import Evaluator
from kanpde.training.objective import Objective
from kanpde.training.plan import Plan
from kanpde.training.shards import Parts
from kanpde.training.supply import Supply
from kanpde.training.training import RunFailed, Training, weights_of
from kanpde.users.code import blaming

GROWN = 1e4  # times the first validation loss, from where a run goes back to its best state
CONVERGED = "convergence (no step makes the loss smaller)"
RETREATS = 10  # of a run at most, each with half the rates of before, or
DAMPED = 10.0  # times the first damping, where steps have no rate
SHARE, SECONDS = 100, 10.0  # files are written whole once a hundredth of the rows is new, and after so many seconds


@dataclass
class State:
    """What callbacks see: the run so far.

    step counts optimiser updates, loss and terms are those of this step's points, row is the last row of the history.
    """

    run: RunFile
    u: Ansatz
    step: int = 0
    steps: int = 0
    phase: int = 0
    loss: float = float("nan")
    terms: dict[str, float] | None = None
    row: dict[str, float] | None = None
    steps_per_s: float = float("nan")


Callback = Callable[[State], bool | None]


class ResidualTraining(Training):
    """A run on residuals: problem, network, points, optimiser, and all that a checkpoint holds.

    Raises:
        ConfigError: the processes of the world are more than points, or on one GPU.
    """

    def __init__(self, plan: Plan, run: RunFile, world: World = ALONE):
        super().__init__(run, plan.device, world)
        self.plan, self.config = plan, plan.config
        config, problem = plan.config, plan.problem
        self.u = plan.ansatz()
        self.parts = Parts(self.u, problem.input_slice) if plan.sliced else None
        drawn = problem.domain.interior(1, stream(config.seed, "lift"), config.points.law)
        self.u.built_in(problem.inputs_of(drawn).to(self.u.like))  # a lift is built before torch traces a step
        self.objective = Objective(plan, self.u, ALONE if plan.sliced else world)
        self.average = None
        if config.average is not None:
            self.average = AveragedModel(self.u, multi_avg_fn=get_ema_multi_avg_fn(config.average))
        self.supply = Supply(plan, self.objective, self.device)
        self.held: dict = {}
        self.validated: dict[str, float] = {}
        self.evaluator = Evaluator(plan, self.tested)
        self.watch = verifying.Watch(config.stop.to, config.points.law) if config.stop.to else None
        self.state = State(run, self.u, steps=config.steps)
        self.best: dict = {"terms": None, "step": 0, "weights": None, "stale": 0, "scale": None, "adapted": None}
        self.retreats: list[dict] = []
        self.moved = False  # whether there has been a step since the start, or since the last return to the best state
        self.written = 0, 0.0  # rows of the history in the files, and at which second
        self.optimizer: torch.optim.Optimizer | None = None

    @property
    def tested(self) -> Ansatz:
        """What errors are measured of and results hold: u, or with `average` its exponential moving average."""
        return self.u if self.average is None else self.average.module

    @property
    def gathers(self) -> bool:
        """Whether the inputs are sharded, so that each process does its part of everything."""
        return self.parts is not None

    def by_first(self, work: Callable[[], Any]) -> Any:
        """What the first process finds, the others wait; where the inputs are sharded all of them work, and find it."""
        return work() if self.gathers else self.world.first(work)

    @property
    def beside(self) -> bool:
        """Whether the network is trained beside what is there before it: a start in closed form, or former stages."""
        return self.u.start is not None or bool(self.config.stages)

    @property
    def climbs(self) -> bool:
        """Whether that is found first, and measured alone; weights of another run begin with what they had beside."""
        return self.beside and not self.config.start_from

    # -----------------------------------------------------------------------------------------------------------
    # The loop

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def progress(self) -> dict:
        return {"steps": self.state.step, "best_step": self.best["step"]}

    def _work(self, *callbacks: Callback | None) -> str:
        with blaming(self.plan.problem, RunFailed):
            return super()._work(*callbacks)

    def walk(self, on_step: Callback | None = None, on_evaluation: Callback | None = None) -> Iterator[bool]:
        """Train to the end of the phases; a step is the last by a stop criterion or a callback that returns True.

        Raises:
            RunFailed: a term or the weights are not finite, or a result that cannot be written.
        """
        state = self.state
        if state.row is None:
            for _ in self._begin():
                yield False
            if self.evaluate(on_evaluation):
                return
        for phase, last in self._phases():
            while state.step < last:
                self._step(phase, last)
                stop = bool(on_step and on_step(state))
                if self._due():
                    stop = self.evaluate(on_evaluation) or stop
                yield stop

    def loop(self, *callbacks: Callback | None) -> str:
        status = super().loop(*callbacks)
        self._keep()
        return status

    def _begin(self) -> Iterator[None]:
        """The start, of several processes by the first one, whose weights all begin with."""
        if self.world.alone or self.gathers:
            self._note_start()
            yield from self._climb()
            return
        weights, self.objective.unit = self.world.first(self._begun)
        for u in {self.u, self.tested}:
            u.load_state_dict(weights)

    def _begun(self) -> tuple[dict[str, Tensor], float]:
        self._note_start()
        deque(self._climb(), 0)
        return {name: value.cpu() for name, value in weights_of(self.u).items()}, self.objective.unit

    def _climb(self) -> Iterator[None]:
        """The start in closed form: up to the rung asked for, or the one of all whose held-out loss is least.

        The network is in units of what it leaves. After each rung there may be an end, and a resumed run begins again.
        """
        asked, plan, loss = self.config.start, self.plan, self.objective.loss
        if not self.beside:
            return
        drawn, kept, rows = stream(self.config.seed, "start"), None, []
        last = asked if asked in ladder.RUNGS else ladder.RUNGS[-1]
        with self._alone():
            for rung in ladder.climb(plan, drawn, last) if self.climbs and self.tested.start is not None else ():
                self.tested.start.load_state_dict(rung.state)
                terms = self.validation(self.tested)
                score = self.objective.total(terms)
                row = {"rung": rung.name, "says": rung.says, "numbers": rung.count, "validation": score}
                rows.append({**row, "rel_l2": self.evaluator.test_errors()["rel_l2"], "wall_s": self.clock.seconds()})
                if kept is None or asked != "ladder" or score < kept[0]:
                    kept = score, terms, rung
                yield
            terms = self.validation(self.tested) if kept is None else kept[1]
        left = sum(terms[name] for name in dict.fromkeys((*loss.equations, *plan.counts)) if name in terms)
        self.objective.unit = left**0.5 if 0 < left < float("inf") else 1.0
        for u in {self.u, self.tested}:
            if kept is not None:
                u.start.load_state_dict(kept[2].state)
            if self.climbs:
                start.scale_of(u.net).mul_(self.objective.unit)
        if kept is None:
            return
        rung = kept[2]
        self.run.attrs["start"] = ": ".join(part for part in (rung.name, rung.says) if part)
        self.run.attrs["start_numbers"] = rung.count
        self.run.attrs["start_rungs"] = json.dumps(rows)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Before the first step what is measured and kept is a start in closed form alone, without the network."""
        if self.step or not self.climbs:
            yield
            return
        scale = start.scale_of(self.tested.net)
        before = scale.clone()
        scale.zero_()
        try:
            yield
        finally:
            scale.copy_(before)

    def _due(self) -> bool:
        """Whether this step is followed by an evaluation."""
        step, seconds = self.state.step, self.config.stop.seconds
        out_of_time = seconds is not None and self.world.any(self.clock.seconds() >= seconds)[0]
        return step % self.config.evaluation.every == 0 or step == self.state.steps or out_of_time

    def _phases(self):
        """(phase, its last step) for the phases not yet done, with its optimiser; that of a resumed one goes on."""
        last = 0
        for number, phase in enumerate(self.config.phases):
            last += phase.steps
            if self.state.step >= last:
                continue
            if self.optimizer is None or number != self.state.phase:
                self.state.phase = number
                self.supply.begin(phase)
                self._change_grids(phase)
                self.optimizer = make_optimizer(phase, self.u, self.optimizer)
                self.supply.keep(OPTIMISERS[phase.optimizer].keeps_points)
            yield phase, last

    def _change_grids(self, phase: PhaseConfig) -> None:
        """Other grids for the network, its average and the best one so far, which stay the functions they are."""
        if not phase.update_grid and not phase.refines:
            return
        x = self.world.gather(self.u.problem.inputs_of(self.supply.pools["interior"].draw()))
        best = self._of_best()
        for u in {self.u, self.tested, best}:
            if phase.update_grid:
                update_grid(u.net, x)
            for resolution in phase.refines.values():
                refine(u.net, resolution)
        if self.best["weights"] is not None:
            self.best["weights"] = {k: v.detach() for k, v in best.state_dict().items()}
            self.best["terms"] = self.validation(best)  # off the old grids it is not quite the function that it was
        self.run.attrs["parameters"] = count_parameters(self.u.net)

    def _of_best(self) -> Ansatz:
        """A copy of the tested model, with the best weights once there are any."""
        best = copy.deepcopy(self.tested)
        if self.best["weights"] is not None:
            best.load_state_dict(self.best["weights"])
        return best

    def _step(self, phase: PhaseConfig, last: int) -> None:
        """One update, or a return to the best state."""
        state = self.state
        try:
            self._update(self.optimizer, phase, schedule(phase, state.step - (last - phase.steps)))
        except FloatingPointError as error:
            self._retreat(f"step {state.step + 1}: {error}")
        except Exception as error:
            if not of_optimizer(error):
                raise
            why = f"step {state.step + 1}: {phase.optimizer}: {' '.join(str(error).split())}"
            if not isinstance(error, torch.linalg.LinAlgError):  # of SOAP where gradients overflow
                raise RunFailed(why) from error  # from a damaged checkpoint
            self._retreat(why)
        else:
            state.terms, state.loss, self.moved = self.objective.terms, self.objective.value, True
            if self.average is not None:
                self.average.update_parameters(self.u)
        state.step += 1

    def _update(self, optimizer: torch.optim.Optimizer, phase: PhaseConfig, factor: float) -> None:
        """A step of the optimiser, at `factor` times its rates, halved with every return to the best state."""
        factor *= 0.5 ** len(self.retreats)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        kind, points, probes = OPTIMISERS[phase.optimizer], self.supply.points(), self.supply.probes
        if kind.wants_system:
            steps.of_system(optimizer, self.objective, points, self.supply.unseen(points), probes)
        else:
            steps.of_loss(optimizer, self.objective, points, probes, frozen=kind.keeps_points)

    def _retreat(self, why: str) -> None:
        """Back to the best state with half the rates, or more damping: its weights, what weighed the loss then.

        Raises:
            RunFailed: there is no best state yet, or it has been `RETREATS` times; or no step has led away from it, so
                that it is not for the rates.
        """
        best = self.best = self.by_first(lambda: self.best)
        state = self.state
        if best["weights"] is None or not self.moved:
            raise RunFailed(why)
        if len(self.retreats) == RETREATS:
            first = next((each["why"] for each in self.retreats if each["to"] == best["step"]), why)
            raise RunFailed(f"{first}; {RETREATS} returns to the best state, each with half the rates, have not helped")
        self.retreats.append({"step": state.step, "to": best["step"], "why": why})
        self.moved = False
        self.run.attrs["retreats"] = json.dumps(self.retreats)
        for u in {self.u, self.tested}:
            u.load_state_dict(best["weights"])
        if self.average is not None:
            self.average.n_averaged.zero_()
        if best["scale"] is not None:
            start.scale_of(self.u.net).copy_(best["scale"])
        if best["adapted"] is not None:
            self.objective.load_adapted(copy.deepcopy(best["adapted"]))
        if self.optimizer is not None:
            self.optimizer = make_optimizer(self.config.phases[state.phase], self.u)
            for group in self.optimizer.param_groups:
                if "damping" in group:
                    group["damping"] *= DAMPED ** len(self.retreats)

    # -----------------------------------------------------------------------------------------------------------
    # Evaluation and files

    def validation(self, u: Ansatz) -> dict[str, float]:
        """The terms of the loss at the held-out points."""
        evaluator = self.evaluator if u is self.tested else Evaluator(self.plan, u)
        return evaluator.validation(self.objective.values)

    def _keep_best(self, terms: dict[str, float]) -> None:
        """The weights of the least validation loss, in which the losses of both are weighted as they are now."""
        best, total = self.best, self.objective.total
        early = best["step"] < self.config.evaluation.best_from
        if best["weights"] is None or early or total(terms) < total(best["terms"]):
            kept = {"terms": terms, "step": self.state.step, "weights": weights_of(self.tested), "stale": 0}
            self.best = kept | {"scale": None, "adapted": self._adapted_now()}
        else:
            best["stale"] += 1

    def _adapted_now(self) -> dict:
        """The states of balance and emphasis, for all points of all processes."""
        held = self.objective.adapted() if self.world.alone or self.gathers else self.held["objective"]
        return copy.deepcopy({name: held[name] for name in ("balance", "emphasis")})

    def evaluate(self, on_evaluation: Callback | None = None) -> bool:
        """Measure the errors, log a row, keep the best weights, write both files; returns whether to stop.

        The files hold a row before `on_evaluation` tells of it, but in long histories, which would be written whole
        every time: there they are behind by `SECONDS` or a `SHARE`-th of the rows at most.
        """
        give_back()
        if not self.world.agree(self.parts.shared if self.gathers else list(self.u.parameters())):
            raise RunFailed(f"step {self.state.step}: the weights of the processes have come apart")
        self._validate()
        self._keep()
        return self.by_first(partial(self._evaluate, on_evaluation))

    def _evaluate(self, on_evaluation: Callback | None) -> bool:
        with self._alone():
            self._measure()
        if self.climbs and not self.state.step:
            self.best["scale"] = start.scale_of(self.u.net).clone()  # without which these weights learn nothing
        rows, (written, at), seconds = len(self.run.history["step"]), self.written, self.clock.seconds()
        due, ended = SHARE * (rows - written) >= rows or seconds - at >= SECONDS, self.stopped() is not None
        if self.gathers:  # by the clocks of all
            due, ended = self.world.any(due, ended)
        if due:
            self.save("running")
            self.written = rows, seconds
        told = lambda: bool(on_evaluation and on_evaluation(self.state))
        return (self.world.first(told) if self.gathers else told()) or ended

    def _validate(self) -> None:
        """The terms at the held-out points, if need be after a return to the best state."""
        self.validated, why = self.by_first(self._look)
        if why is not None:
            self._retreat(f"step {self.state.step}: {why}")
            self.validated, _ = self.by_first(self._look)

    def _look(self) -> tuple[dict[str, float], str | None]:
        """The terms at the held-out points, and whether the run has diverged."""
        with self._alone():
            terms = self.validation(self.tested)
        return terms, self._diverged(terms)

    def _diverged(self, terms: dict[str, float]) -> str | None:
        """What says that the run has diverged, of its weights and these terms."""
        score, before = self.objective.total(terms), self.objective.total(at_first(self.run, terms))
        finite = all(p.isfinite().all() for p in self.u.parameters())
        if self.world.any(not finite)[0] if self.gathers else not finite:
            return "the weights are not finite"
        if not abs(score) < float("inf"):
            bad = next((name for name, value in terms.items() if not abs(value) < float("inf")), "weighted sum")
            return f"the loss term {bad} is {terms.get(bad, score)} at held-out points"
        if self.u.start is None and score > GROWN * max(before, torch.finfo(self.plan.dtype).eps):  # a start is kept
            return f"the validation loss is {score:.3g}, at first it was {before:.3g}"
        return None

    def _measure(self) -> None:
        """The errors as a row of the history, and the best weights."""
        state, terms = self.state, self.validated
        score = self.objective.total(terms)
        self._keep_best(terms)
        state.steps_per_s = self.clock.rate(state.step)
        weighed = list(state.terms or self.plan.counts)
        state.row = {
            "step": state.step,
            "loss": state.loss,
            **self.evaluator.test_errors(),
            "wall_s": self.clock.seconds(),
            "steps_per_s": state.steps_per_s,
            "peak_memory_bytes": max(self.memory.bytes(), (state.row or {}).get("peak_memory_bytes", 0)),
            "saved_memory_bytes": self.objective.saved_bytes,
            "lr": self._learning_rate(),
            "validation": score,
            **{f"held_out/{name}": value for name, value in terms.items()},
            **{f"terms/{name}": value for name, value in (state.terms or {}).items()},
            **{f"weights/{name}": w for name, w in self.objective.weights(weighed).items()},
            **{f"optimizer/{name}": value for name, value in getattr(self.optimizer, "report", dict)().items()},
            **self.evaluator.off_grid(),
            **self._estimator_variance(),
            **self._problem_parameters(),
            **self._watched(),
        }
        self.run.log(state.row)
        if self.u.start is not None and self.climbs and not state.step and self.plan.knows:
            self.run.floors["start"] = state.row["rel_l2"]

    def _note_start(self) -> None:
        """What equations and conditions leave of the network as it was drawn, before a start in closed form."""
        if not self.plan.problem.fits_rows:
            held_out, at_once = self.evaluator.held_out, self.objective.micro_batch
            left = remaining.measured(self.plan, self.tested, held_out, at_once)
            self.run.set_table("residuals", remaining.at_start(left))

    def _watched(self) -> dict[str, float]:
        """The relative l2 error of the best weights as it is estimated, where the run is to end by it."""
        if self.watch is None or not self.state.step:
            return {}
        found = self.watch.look(self._of_best(), self.clock.seconds(), self.state.step)
        names = ("rel_l2", "low", "high")
        return {f"estimated/{name}": getattr(found, name) if found else float("nan") for name in names}

    def stopped(self) -> str | None:
        """The criterion by which the run has ended at its last evaluation, as its key and what it has reached."""
        row, stop, stale = self.state.row or {}, self.config.stop, self.best["stale"]
        if stop.loss is not None and row and row["validation"] <= stop.loss:
            return f"stop.loss={stop.loss:g} (validation loss {row['validation']:.3g})"
        if stop.to is not None and row.get("estimated/high", float("nan")) <= stop.to:
            return f"stop.to={stop.to:g} (estimated error below {row['estimated/high']:.3g})"
        if stop.seconds is not None and row and row["wall_s"] >= stop.seconds:
            return f"stop.seconds={stop.seconds:g} (it has used {row['wall_s']:.0f} s)"
        if stop.patience is not None and stale >= stop.patience:
            return f"stop.patience={stop.patience} ({stale} evaluations without a smaller validation loss)"
        return CONVERGED if self._converged() else None

    def _converged(self) -> bool:
        """Whether the last phase can make its loss no smaller, which would come out the same at all of its steps."""
        last = self.state.phase == len(self.config.phases) - 1
        stay = self.config.points.refresh == "fixed" or OPTIMISERS[self.config.phases[-1].optimizer].keeps_points
        return last and stay and getattr(self.optimizer, "converged", False)

    def _estimator_variance(self) -> dict[str, float]:
        """The variance that a stochastic operator adds to the squared residual, at the points of the last step."""
        x = self.supply.pools["interior"].points
        operator, loss = self.objective.operator, self.objective.loss
        reads = self.u.problem.reads
        estimated = operator.draws(reads) or (reads.second and not operator.exact)
        if x is None or not estimated or len(self.u.problem.fields) > 1:
            return {}
        scale = loss.factor(self.u.problem)
        generator = stream(self.config.seed, f"variance/{self.state.step}", self.device)
        return {"estimator_variance": scale**2 * operator.variance(self.u, x, generator=generator).mean().item()}

    def _problem_parameters(self) -> dict[str, float]:
        """The unknowns of an inverse problem, where they are few."""
        numbers = reported(self.u.problem, self.u.problem_parameters)
        return {f"parameters/{name}": value.item() for name, value in numbers.items()}

    def _learning_rate(self) -> float:
        return max(group["lr"] for group in self.optimizer.param_groups) if self.optimizer else float("nan")

    def finish(self) -> str:
        """What is of the weights that are kept, into the result file; returns the status of the run."""
        self.objective.world = ALONE  # the others have done their part
        give_back()
        ending, terms = self.ending(), self.last_terms()
        ending.results(terms)
        if self._converged():
            ending.converged()
        return ending.verdict(terms)

    def ending(self) -> Ending:
        """The run after its last step."""
        made = {"plan": self.plan, "run": self.run, "objective": self.objective, "evaluator": self.evaluator}
        of_run = {"best": self.best, "step": self.state.step, "loss": self.state.loss, "retreats": self.retreats}
        return Ending(**made, u=self.tested, **of_run)

    def last_terms(self) -> dict[str, float]:
        """The terms at the held-out points after the last step, which the last evaluation has as a rule measured.

        Before the first step it has those of the start alone.
        """
        row, of = self.state.row or {}, "held_out/"
        measured = {name.removeprefix(of): value for name, value in row.items() if name.startswith(of)}
        return measured if measured and row["step"] == self.state.step > 0 else self.validation(self.tested)

    def _keep(self) -> None:
        """Of several processes: what a checkpoint will hold of all, which the first writes by itself."""
        if not self.world.alone and not self.gathers:
            held = self._hold()
            self.held = held if self.world.leads else {}

    def _hold(self) -> dict:
        """What a checkpoint needs of all processes: points that stay, what is known of them, and streams."""
        return {**self.supply.state_dict(), "objective": self.objective.state_dict()}

    def state_dict(self) -> dict:
        state = self.state
        held = self._hold() if self.world.alone or self.gathers else self.held
        found = {
            "id": self.run.attrs.get("id"),
            "weights": self.u.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            **held,
            "step": state.step,
            "phase": state.phase,
            "loss": state.loss,
            "terms": state.terms,
            "row": state.row,
            "history": {name: torch.tensor(rows, dtype=torch.float64) for name, rows in self.run.history.items()},
            "retreats": self.retreats,
            "moved": self.moved,
            "floors": self.run.floors,
            "average": None if self.average is None else self.average.state_dict(),
            "elapsed": self.clock.seconds(),
        }
        return found if self.parts is None else self.parts.whole(found, self.optimizer)

    def load_state_dict(self, saved: dict) -> None:
        state = self.state
        for u in {self.u, self.tested}:
            refine_grids(u.net, self.config, saved)
        state.step, state.phase, state.loss = int(saved["step"]), int(saved["phase"]), float(saved["loss"])
        if saved["optimizer"] is not None:
            self.optimizer = make_optimizer(self.config.phases[state.phase], self.u)
        if self.parts is not None:
            saved = self.parts.mine(saved, self.optimizer)
        self.u.load_state_dict(saved["weights"])
        state.terms, state.row = saved["terms"], saved["row"]
        if self.optimizer is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
            for phase in self.config.phases[: state.phase + 1]:
                self.supply.begin(phase)
        self.supply.load_state_dict(saved, state.step)
        rows = {k: torch.as_tensor(v, dtype=torch.float64).tolist() for k, v in saved["history"].items()}
        self.run.history = rows  # lists in older checkpoints
        self.retreats = [dict(each) for each in saved.get("retreats", ())]
        self.moved = bool(saved.get("moved", True))
        self.run.floors = saved["floors"]
        self.objective.load_state_dict(saved["objective"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.elapsed = float(saved["elapsed"])
        self.best |= saved["best"]
        self.best["terms"] = self.best["terms"] or self.validation(self._of_best())  # of older runs: none
        self.written = len(self.run.history.get("step", ())), self.elapsed
