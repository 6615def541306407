"""The trained model of a run, and weights to start another one from."""

import copy
from pathlib import Path

from torch import nn

from kanpde.jets.ansatz import Ansatz
from kanpde.kan.compress import generate_like
from kanpde.plot.inline import Figures
from kanpde.problems import Problem
from kanpde.problems.base import own
from kanpde.records.run import RunFile
from kanpde.runs import facts
from kanpde.runs.stored import config_of
from kanpde.training.checkpoints import checkpoint_of, fitting, last_weights, load_checkpoint, refine_grids
from kanpde.training.plan import Plan
from kanpde.users.members import enter, kept_in, problem_of


class Run(RunFile):
    """A run: its result file, and the model that it has trained.

    Attributes:
        path: the file; its checkpoint lies beside it with the suffix .pt.
        attrs: attributes by name.
        history: a list or array per column, `terms/<name>` included.
        floors: relative l2 errors of the reference functions by name.
    """

    def load_model(
        self, trust: bool = False, best: bool = True, net: nn.Module | None = None, problem: Problem | None = None
    ) -> Ansatz:
        """The trained `Ansatz`, in evaluation on the CPU: the best weights, or the last ones, every time its own.

        Args:
            trust: a run of a problem from a user's file executes the source stored in the run only with trust=True.
            best: the best weights by validation, or the last ones.
            net, problem: those of the run, where they were made in Python and are no file or name; the network as it
                was given to `train`.
        Raises:
            ConfigError: these do not fit the checkpoint, or there is none.
        """
        return opened(self, trust, best, net, problem)[1]

    def plot(self, every: bool = False) -> Figures:
        """The figures of the run by their names, as far as it has the data; a notebook shows them.

        Args:
            every: the further ones of `kanpde plot` too: other slices, and how the error is distributed.

        Example:
            >>> from kanpde import train
            >>> from kanpde.problems import Poisson
            >>> run = train(Poisson(3), backbone="mlp", steps=2, out=getfixture("tmp_path") / "run.h5")
            >>> list(run.plot())
            ['convergence', 'error']
        """
        from kanpde.plot import main_figures, other_figures  # matplotlib, only now

        return Figures(main_figures(self) | (other_figures(self) if every else {}))

    def _repr_html_(self) -> str:
        return facts.as_html(self)


def opened(
    run: RunFile, trust: bool = False, best: bool = True, net: nn.Module | None = None, problem: Problem | None = None
) -> tuple[Plan, Ansatz]:
    """The plan of a run, and its model; see `Run.load_model`."""
    config = config_of(run)
    kept = kept_in(run.attrs)
    if problem is None:
        problem = problem_of(config.problem, kept.get("problem"), trust)
    enter(config, kept, trust)
    plan = Plan.of(config, own(problem), copy.deepcopy(net), stored=True)
    u = plan.ansatz("cpu")
    saved = checkpoint_of(run)
    with fitting(run.checkpoint):
        refine_grids(u.net, config, saved)
        u.load_state_dict(saved["best"]["weights"] if best else last_weights(saved))
    return plan, u.eval()


def start_from(u: Ansatz, path: Path) -> None:
    """Give u the best weights of another run, its polynomial too; generated weights may start from a KAN's free ones.

    Raises:
        ConfigError: the run has another network, or no checkpoint.
    """
    checkpoint, net = path.with_suffix(".pt"), u.net
    with fitting(checkpoint):
        best = load_checkpoint(checkpoint)["best"]["weights"]
        weights = {name.removeprefix("net."): value for name, value in best.items() if name.startswith("net.")}
        if u.start is not None:
            u.start.load_state_dict({k.removeprefix("start."): v for k, v in best.items() if k.startswith("start.")})
        if weights.keys() >= net.state_dict().keys():  # older runs have several names of a shared meta-learner
            net.load_state_dict(weights)
        else:
            generate_like(net, Run.open(path).load_model().net)
