"""What a run on residuals leaves at its end: results of the weights that are kept, and the status of the run."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.problems.conditions import Observations
from kanpde.records.run import RunFile
from kanpde.training import remaining, verifying
from kanpde.training.determined import determined
from kanpde.training.evaluation import Evaluator
from kanpde.training.meshes import meshes
from kanpde.training.objective import Objective
from kanpde.training.plan import Plan
from kanpde.training.training import weights_of

OF_UNKNOWNS = ("standard_errors", "undetermined", "misfit_over_noise", "misfit_disagrees", "no_standard_errors")
FACTOR = 2  # by which losses differ that a user is told of


@dataclass(frozen=True)
class Ending:
    """A run after its last step.

    Attributes:
        u: with its last weights.
        best: the kept weights, their step, and their terms at the held-out points.
        step, loss: the last ones.
        retreats: its returns to the best state.
    """

    plan: Plan
    run: RunFile
    objective: Objective
    evaluator: Evaluator
    u: Ansatz
    best: Mapping[str, Any]
    step: int
    loss: float
    retreats: list[dict]

    def results(self, terms: Mapping[str, float]) -> None:
        """Errors of the last and the best weights, the field, tables and slices of the latter, into the result file.

        terms: at the held-out points, of the last weights.
        """
        plan, config, run, evaluator, best, u = self.plan, self.plan.config, self.run, self.evaluator, self.best, self.u
        last = weights_of(u)
        found, field, digest, times = evaluator.full_test()
        run.attrs["rel_l2_last"] = found["rel_l2"]
        try:
            if best["step"] != self.step:
                u.load_state_dict(best["weights"])
                found, field, digest, times = evaluator.full_test()
            slices = evaluator.slices()
            self._tables(times)
            shapes = meshes(config, u, slices, evaluator.solution)
            run.attrs["best_step"] = best["step"]
            run.floors |= evaluator.floors_of_u()
            self._determine()
            if (config.verify or config.stop.to) and not plan.problem.fits_rows:
                verifying.at_the_end(run, u, asked=config.stop.to)
        finally:
            u.load_state_dict(last)
        of_system = plan.problem.fields if len(plan.problem.fields) > 1 else ()
        run.attrs.update(
            validation_best=self.objective.total(best["terms"]),
            validation_last=self.objective.total(terms),
            rel_l2_best=found["rel_l2"],
            rmse_best=found["rmse"],
            test_points=len(field["radius"]),
            test_points_sha256=digest,
            history_points=evaluator.history_points(),
            **{f"rel_l2_best/{name}": found[f"fields/{name}/rel_l2"] for name in of_system},
            **{f"skill_{name}": self._error_beside(found, name) / floor for name, floor in run.floors.items() if floor},
        )
        run.set_field({name: t.numpy() for name, t in field.items()})
        run.set_slices(slices)
        run.set_meshes(shapes)

    def _tables(self, times: Mapping[str, Tensor]) -> None:
        """The groups of the result file that are made at the end."""
        run, plan = self.run, self.plan
        run.set_table("times", {name: column.numpy() for name, column in times.items()})
        of_points = self.evaluator.at_interest()
        run.set_table("points_of_interest", {k: v if isinstance(v, list) else v.numpy() for k, v in of_points.items()})
        if plan.problem.fits_rows:
            return
        left = remaining.measured(plan, self.u, self.evaluator.held_out, self.objective.micro_batch)
        table = remaining.as_table(left, run.table("residuals"))
        run.set_table("residuals", table)
        from_nothing = not (plan.config.stages or plan.config.start_from)
        if said := "" if plan.knows else remaining.verdict(table, from_nothing):
            run.attrs["verdict"] = said

    def _determine(self) -> None:
        """Standard errors of the unknowns, where observations are to determine them."""
        u = self.u
        if u.problem_parameters is None:
            return
        for name in OF_UNKNOWNS:  # of a run that goes on
            self.run.attrs.pop(name, None)
        points = dict(self.evaluator.held_out)
        for name, condition in u.problem.asked.items():
            if isinstance(condition, Observations):
                n = condition.count(u.problem)
                points[name] = condition.points(u.problem, n, stream(0, name), "", dtype=torch.float64).to(u.like)
        try:
            found = determined(self.objective, u, points)
        except Exception as error:  # of torch, or of a user's module: the run is done, and is kept
            found = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        if isinstance(found, str):
            self.run.attrs["no_standard_errors"] = found
        else:
            found.write(self.run.attrs)

    def _error_beside(self, found: Mapping[str, float], floor: str) -> float:
        """The relative l2 error that a floor is of: that of u, if need be as estimated, or of the field in its name."""
        field, slash, _ = floor.rpartition("/")
        if slash or self.plan.knows:
            return found[f"fields/{field}/rel_l2"] if slash else found["rel_l2"]
        return self.run.verification.get("rel_l2", float("nan"))

    def converged(self) -> None:
        """What the result says of a run whose loss no step makes smaller."""
        dtype = self.plan.config.dtype
        further = "; dtype: float64 may go further" if dtype == "float32" else ""
        said = f"at step {self.step} no step makes the loss smaller, {self.loss:.2g}, in the digits of {dtype}{further}"
        self.run.attrs["converged"] = said

    def verdict(self, last: Mapping[str, float]) -> str:
        """The status by the held-out terms of the last weights; what a user should know of them is a warning."""
        total, best, floor = self.objective.total, self.best, torch.finfo(self.plan.dtype).eps ** 2
        apart = [
            f"{name} {kept:.2g} and {last[name]:.2g}"
            for name, kept in best["terms"].items()
            if max(kept, last[name]) > max(FACTOR * min(kept, last[name]), floor)
        ]
        from_start = self.u.start is not None and not best["step"]
        if best["step"] != self.step and apart and not from_start:
            warnings.warn(f"kept (step {best['step']}) and last weights differ in {', '.join(apart)}", stacklevel=2)
        if (status := self._after_retreats()) is not None:
            return status
        before, after = total(at_first(self.run, last)), total(last)
        if not after > FACTOR * max(before, 0):
            return "finished"
        if self.u.start is not None:
            self.run.attrs["message"] = "training has not improved on the start, which is what is kept"
            return "finished"
        overfits = self.loss <= before  # rows are few, but what was trained on fell
        self.run.attrs["message"] = message = (
            f"the run ended worse than it began: validation loss {after:.3g}, at first {before:.3g}; try smaller rates"
        )
        warnings.warn(message, stacklevel=2)
        return "finished" if overfits else "diverged"

    def _after_retreats(self) -> str | None:
        """diverged, where nothing has been better since the last return to the best state; of others a warning."""
        if not self.retreats:
            return None
        last = self.retreats[-1]
        if last["step"] + 1 >= self.step:
            self.run.attrs["message"] = message = f"{last['why']}; what is kept is of step {self.best['step']}"
            warnings.warn(message, stacklevel=2)
            return "diverged"
        at = ", ".join(str(each["step"]) for each in self.retreats)
        half = f"with rates halved each time, in the end {0.5 ** len(self.retreats):.2g} of those asked for"
        warnings.warn(f"diverged at step {at} and went back to the best state, {half}", stacklevel=2)
        return None


def at_first(run: RunFile, terms: Mapping[str, float]) -> dict[str, float]:
    """These terms at the held-out points as the first evaluation found them."""
    return {name: run.history.get(f"held_out/{name}", [float("nan")])[0] for name in terms}
