"""A search for settings with a budget, by Optuna: what it minimises is the held-out loss, and it never reads u*."""

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kanpde.config import RunConfig, dump, find
from kanpde.config.reading import read_yaml
from kanpde.config.schema import SlicesConfig
from kanpde.ground.errors import ConfigError
from kanpde.records.run import replacing
from kanpde.records.sweep import said
from kanpde.runs.api import ENDED, begin, go_on
from kanpde.runs.models import Run
from kanpde.runs.stored import config_of
from kanpde.sweeps.grid import Base
from kanpde.sweeps.values import keyed, listed, written
from kanpde.training.loop import State
from kanpde.training.plan import Plan
from kanpde.training.training import RunFailed
from kanpde.users.members import enter

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
BETWEEN = re.compile(rf"{NUMBER}\.\.{NUMBER}(:log)?")
MEASURES = (  # keys by which a held-out loss is another one: those of two trials would not compare
    *("problem", "seed", "loss", "constraint", "fluxes", "operator", "units", "reference"),
    *("points.law", "points.validation", "evaluation.points"),
)
QUARTER = 4  # of the steps, before which no trial is given up
PLAINLY = SlicesConfig(points=2, volume=0)  # of runs that nobody looks at


@dataclass(frozen=True)
class Between:
    """Numbers from low to high, whole ones if both are; `log`: by their logarithm."""

    low: float
    high: float
    log: bool

    @property
    def ends(self) -> list:
        return [self.low, self.high]

    def of(self, trial: "Trial", key: str) -> float:
        """The value of a trial."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return (trial.suggest_int if whole else trial.suggest_float)(key, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: list

    @property
    def ends(self) -> list:
        return self.values

    def of(self, trial: "Trial", key: str) -> Any:
        """The value of a trial, which Optuna knows as text."""
        by_text = {written(value): value for value in self.values}
        return by_text[trial.suggest_categorical(key, list(by_text))]


def space(words: Iterable[str]) -> dict[str, Between | Choice]:
    """What is searched, by key, from KEY=1e-4..1e-2:log or KEY=value,value.

    Raises:
        ConfigError: nothing, no values, or a key by which losses would not compare.
    """
    found = {key: _searched(key, text) for key, text in keyed(words).items()}
    if not found:
        raise ConfigError("nothing is searched; say --over KEY=VALUES, such as phases.0.lr=1e-4..1e-2:log")
    for key in found:
        if any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in MEASURES):
            raise ConfigError(f"--over {key}: by it the held-out loss is another one, so trials would not compare")
    return found


def _searched(key: str, text: str) -> Between | Choice:
    match = BETWEEN.fullmatch(text)
    if match is None:
        return Choice(listed(key, text))
    low, high = (int(part) if re.fullmatch(r"[-+]?\d+", part) else float(part) for part in match.groups()[:2])
    if not low < high < math.inf:
        raise ConfigError(f"--over {key}: {text}: the second number is to be larger, and finite")
    if match[3] and low <= 0:
        raise ConfigError(f"--over {key}: {text}: a logarithm needs numbers above 0")
    return Between(low, high, bool(match[3]))


def check(base: Base, searched: Mapping[str, Between | Choice]) -> None:
    """Each value alone, of an interval its ends, beside the first of all others.

    Raises:
        ConfigError: one of them is no run.
    """
    first = {key: values.ends[0] for key, values in searched.items()}
    for key, values in searched.items():
        for value in values.ends:
            try:
                Plan.of(base.config({**first, key: value}), blind=True)
            except ConfigError as error:
                raise ConfigError(f"{key}={said(value)}: {error}") from None


@dataclass
class Search:
    """A search in a folder: trials and their runs lie there, and the same search again goes on.

    tune.yaml says what it is, trials.log is Optuna's journal, trial-0007.h5 a run, best.yaml the best settings so far.
    """

    base: Base
    searched: Mapping[str, Between | Choice]
    texts: Mapping[str, str]
    folder: Path
    seed: int = 0

    def study(self) -> "Study":
        """Optuna's, with the trials that there are; what a process left that was killed is tried again.

        Raises:
            ConfigError: Optuna is not installed; the folder has another search, or a journal that is none.
        """
        try:
            import optuna
        except ImportError:
            raise ConfigError("tune: Optuna is not installed: pip install 'kanpde[tune]'") from None
        from optuna.storages.journal import JournalFileBackend

        self._check_folder()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        journal, pruner = _mended(self.folder / "trials.log"), optuna.pruners.MedianPruner(5, self._steps() // QUARTER)
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
            study = optuna.create_study(storage=storage, study_name="tune", load_if_exists=True, pruner=pruner)
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{journal}: a damaged journal of Optuna; restore it, or choose another folder") from None
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            self._put_back(study, trial)
        return study

    def _steps(self) -> int:
        return self.base.config({key: values.ends[0] for key, values in self.searched.items()}).steps

    def _check_folder(self) -> None:
        file, ours = self.folder / "tune.yaml", {**self.base.stated, "over": dict(self.texts), "seed": self.seed}
        if not file.exists():
            with replacing(file) as temporary:
                temporary.write_text(yaml.safe_dump(ours, sort_keys=False), encoding="utf-8")
            return
        there = read_yaml(file)
        for key, value in ours.items():
            if there.get(key) != value:
                was = said(there.get(key))
                raise ConfigError(
                    f"--out {self.folder}: a search with {key} {was}, given {said(value)}; choose another"
                )

    def run(
        self, study: "Study", trials: int, seconds: float, tell: Callable[["FrozenTrial", Run | None], None]
    ) -> None:
        """Go on until there are so many trials, or the time is over, which ends a trial too.

        Raises:
            KeyboardInterrupt: Ctrl-C; the trial has stored its state, and goes on next time.
        """
        end = time.monotonic() + seconds
        while _left(study, trials) and time.monotonic() < end:
            trial = study.ask()
            values = {key: searched.of(trial, key) for key, searched in self.searched.items()}
            run = None
            try:
                run = self._trial(study, trial, values, end)
            except (ConfigError, RunFailed) as error:
                trial.set_user_attr("reason", str(error))
                study.tell(trial, state=_states().FAIL)
            except KeyboardInterrupt:
                self._put_back(study, trial)
                raise
            tell(study.trials[trial.number], run)

    def _trial(self, study: "Study", trial: "Trial", values: Mapping[str, Any], end: float) -> Run:
        """One run, or what is left of it."""
        path = self.folder / trial.user_attrs.get("run", f"trial-{trial.number:04}.h5")
        plan = _blind(self.base.config(values), path)
        watch = _Watch(plan, trial, end)
        run = Run.open(path) if path.is_file() else None
        if run is None:
            run = begin(plan, path, on_evaluation=watch)
        elif run.attrs["status"] not in ENDED:
            run = go_on(run, plan, on_evaluation=watch)
        if run.attrs["status"] not in ENDED:
            raise KeyboardInterrupt
        if watch.pruned:
            study.tell(trial, state=_states().PRUNED)
            return run
        study.tell(trial, held_out_loss(plan, run))
        if study.best_trial.number == trial.number:
            self._write_best(study, values)
        return run

    def _put_back(self, study: "Study", trial: "Trial | FrozenTrial") -> None:
        """A trial that has not ended is tried again by one with its values, which goes on with its run."""
        path = trial.user_attrs.get("run", f"trial-{trial.number:04}.h5")
        study.tell(trial.number, state=_states().FAIL)
        study.enqueue_trial(dict(trial.params), user_attrs={"run": path})

    def best(self, study: "Study") -> dict[str, Any]:
        """The settings of the least held-out loss; {}: no trial has ended."""
        with suppress(ValueError):
            params = study.best_trial.params
            chosen = {
                key: {written(v): v for v in c.values} for key, c in self.searched.items() if isinstance(c, Choice)
            }
            return {key: chosen[key][value] if key in chosen else value for key, value in params.items()}
        return {}

    def _write_best(self, study: "Study", values: Mapping[str, Any]) -> None:
        """best.yaml: the whole configuration, for `kanpde solve`, above the solver that it was stated with."""
        solver = values.get("solver", self.base.solver) or read_yaml(find("problems", self.base.problem)).get("solver")
        head = f"# held-out loss {study.best_value:.3e} in trial {study.best_trial.number}: "
        head += ", ".join(f"{key}={said(value)}" for key, value in values.items())
        named = f"solver: {written(solver)}\n" if solver else ""
        with replacing(self.folder / "best.yaml") as temporary:
            plan = Plan.of(self.base.config(values), blind=True)
            temporary.write_text(f"{head}\n{named}{dump(plan.config)}", encoding="utf-8")


def _mended(journal: Path) -> Path:
    """Without a last line that has no end, of a process that was killed: Optuna would write on in that line."""
    if journal.is_file() and (text := journal.read_bytes()) and not text.endswith(b"\n"):
        os.truncate(journal, text.rfind(b"\n") + 1)
    return journal


class _Watch:
    """Called at each evaluation of a trial: reports the least held-out loss so far, and says whether to end here."""

    def __init__(self, plan: Plan, trial: "Trial", end: float):
        self.plan, self.trial, self.end = plan, trial, end
        self.least, self.pruned = math.inf, False

    def __call__(self, state: State) -> bool:
        self.least = min(self.least, _loss(self.plan, state.row))
        self.trial.report(self.least, state.step)
        over = time.monotonic() >= self.end and state.step < state.steps
        self.pruned = over or (state.step < state.steps and self.trial.should_prune())
        return self.pruned


def _blind(config: RunConfig, path: Path) -> Plan:
    """The plan of a trial, or of its run that there is, which never reads the solution."""
    if not path.is_file():
        return Plan.of(config.model_copy(update={"verify": False, "slices": PLAINLY}), blind=True)
    stored = config_of(Run.open(path))
    enter(stored)
    return Plan.of(stored, stored=True, blind=True)


def held_out_loss(plan: Plan, run: Run) -> float:
    """The loss at the held-out points, of the weights that the run keeps, by the weights that the user states.

    Those of a balance are another in each run, so that by them losses would not compare.
    """
    kept = list(run.history["step"]).index(run.attrs["best_step"])
    return _loss(plan, {name: column[kept] for name, column in run.history.items()})


def _loss(plan: Plan, row: Mapping[str, float]) -> float:
    terms = {name.removeprefix("held_out/"): value for name, value in row.items() if name.startswith("held_out/")}
    return float(sum(plan.loss.weight(name) * value for name, value in terms.items() if value == value))


def _left(study: "Study", trials: int) -> bool:
    """Whether trials are left: a trial that goes on with another is no new one."""
    waiting = study.get_trials(deepcopy=False, states=[_states().WAITING])
    return bool(waiting) or sum("run" not in trial.user_attrs for trial in study.get_trials(deepcopy=False)) < trials


def _states():
    from optuna.trial import TrialState

    return TrialState
