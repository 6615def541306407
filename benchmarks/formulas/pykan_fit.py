"""pykan on one set of points, within a hard time limit: the peer's side of the Feynman benchmark, as a child process.

    python -m benchmarks.pykan_fit INPUT.npz OUTPUT.json [--structure 2,5,1 ...] [--seconds 60] [--seed 0] [--symbolic]

INPUT holds x_train (N, d), y_train (N,), x_test, y_test. A fifth of the training points validates: it chooses among
models and formulas; the test points are only reported on. The recipe is pykan's own advice (README, hellokan.ipynb,
KAN 2.0) for an unknown equation: double precision; inputs and outputs standardised (`normalize_input`, `_label`);
start small and widen: a hidden layer of 1 product (0+1), 1 node, 2 nodes and 1 product (2+1), 5 nodes, each 20 L-BFGS
steps at grid 3; the best is refined through grids 5, 10, 20, then the second best, until the time is over.

With --symbolic the fit has 60 % of the time. In the rest every structure, the simplest first, is sparsified
(lamb = 0.001), pruned, trained, snapped by `auto_symbolic`, and its constants are trained. A formula counts before and
after that, as pykan gives it, rounded to 4 digits as in its examples, and expanded and rounded. Three repairs help
pykan: refinement and pruning see the training points, not the validation points that `fit` leaves behind; edges are
snapped on 40 points (800 would use up the time on one network); and y_th is a tensor, as its safe exp needs. The clock
starts after pykan's import. OUTPUT is written after the fit and after the formula, without the keys of what is missing.
"""

import faulthandler
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sympy
import torch
from torch import Tensor, nn

from benchmarks.common.study import Parser, exiting
from kanpde.ground.errors import ConfigError
from kanpde.interpret.refine import time_limit

HIDDEN = ("0+1", "1", "2+1", "5")
GRIDS = (5, 10, 20)
SCREEN_STEPS, REFINE_STEPS, SPARSE_STEPS, PRUNED_STEPS, CONSTANT_STEPS = 20, 40, 10, 30, 50
LAMB = 1e-3
LIBRARY = ("x", "x^2", "x^3", "1/x", "1/x^2", "sqrt", "exp", "log", "sin", "tanh", "gaussian", "arcsin")
SNAP_POINTS = 40
HELD_OUT, FIT_SHARE = 0.2, 0.6
EXACT = 1e-18  # relative mean square error: nothing is left to search for
GRACE = 20.0  # seconds after the limit until the process ends even inside a call that no signal interrupts


def relative_mse(prediction: Tensor, y: Tensor) -> float:
    """Mean square error over the variance of y; 1 is the constant predictor."""
    return ((prediction - y).square().mean() / (y - y.mean()).square().mean()).item()


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns of (N, n), each (n,); a constant column has 1."""
    std = values.std(0)
    return values.mean(0), torch.where(std > 0, std, 1)


def structure(text: str, inputs: int) -> list[int | list[int]]:
    """pykan's `width`: "2,5,1" -> [2, 5, 1]; "2,5+3,1" -> [2, [5, 3], 1] with 3 products, else ConfigError."""
    try:
        layers = [[int(n) for n in layer.split("+")] for layer in text.split(",")]
    except ValueError:
        layers = []
    small = len(layers) < 2 or any(len(n) > 2 or min(n) < 0 or sum(n) < 1 for n in layers)
    if small or layers[0] != [inputs] or layers[-1] != [1]:
        raise ConfigError(f"--structure {text}: allowed is {inputs},H,...,1 with H such as 5, or 5+2 (2 products)")
    return [n[0] if len(n) == 1 else n for n in layers]


@dataclass(frozen=True)
class Data:
    """Points in their own units, and what of them pykan sees: standardised inputs and outputs."""

    x: dict[str, Tensor]  # train, validation, test: (N, d)
    y: dict[str, Tensor]  # (N, 1)

    def standardised(self, part: str) -> Tensor:
        """The inputs as the model takes them."""
        mean, std = moments(self.x["train"])
        return (self.x[part] - mean) / std

    def predict(self, model: nn.Module, part: str) -> Tensor:
        """The model's output in the units of the data."""
        mean, std = moments(self.y["train"])
        with torch.no_grad():
            return model(self.standardised(part)) * std + mean

    def dataset(self) -> dict[str, Tensor]:
        """What pykan's `fit` takes; its "test" points are those of the validation."""
        mean, std = moments(self.y["train"])
        parts = (("train", "train"), ("test", "validation"))
        inputs = {f"{name}_input": self.standardised(part) for name, part in parts}
        return inputs | {f"{name}_label": (self.y[part] - mean) / std for name, part in parts}


def load(path: Path, seed: int) -> Data:
    """The points of an NPZ file; ConfigError if an array is missing, of the wrong shape or not finite."""
    names = ("x_train", "y_train", "x_test", "y_test")
    with np.load(path) as file:
        if missing := [name for name in names if name not in file]:
            raise ConfigError(f"{path.name} holds no {', '.join(missing)} (needed: {', '.join(names)})")
        x, y, *test = (torch.as_tensor(file[name], dtype=torch.float64) for name in names)
    for part, points, values in (("train", x, y), ("test", *test)):
        shapes = f"x_{part} {tuple(points.shape)} and y_{part} {tuple(values.shape)}"
        shaped = points.ndim == 2 and values.numel() == len(points) and points.shape[1] == x.shape[1]
        if not (shaped and points.isfinite().all() and values.isfinite().all()):
            raise ConfigError(f"{path.name} holds {shapes}: allowed are finite numbers, (N, d) and (N,)")
    order, held = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)), round(HELD_OUT * len(x))
    pairs = ((x, test[0]), (y.reshape(-1, 1), test[1].reshape(-1, 1)))
    return Data(*({"train": v[order[held:]], "validation": v[order[:held]], "test": t} for v, t in pairs))


@dataclass
class Best:
    """The candidate with the least validation error, and its error on the test points (never looked at to choose)."""

    data: Data
    validation: float = float("inf")
    report: dict = field(default_factory=dict)

    def offer(self, predict: Callable[[str], Tensor], **about) -> None:
        """Keep a candidate if it is better; `predict` gives its values on a part of the points."""
        error = relative_mse(predict("validation"), self.data.y["validation"])
        if error < self.validation:  # false for NaN
            test, y = predict("test"), self.data.y["test"]
            errors = {"relative_mse": relative_mse(test, y), "rmse": (test - y).square().mean().sqrt().item()}
            self.report = {**errors, "validation_relative_mse": error, **about}
            self.validation = error


def formula_values(formula, symbols: Sequence, x: Tensor) -> Tensor:
    """A sympy formula at points (N, d) as (N, 1); ArithmeticError if a value is complex or not finite."""
    with np.errstate(all="ignore"):
        values = np.asarray(sympy.lambdify(symbols, formula, "numpy")(*x.T.numpy()))
    if np.iscomplexobj(values) or not np.isfinite(np.asarray(values, dtype=float)).all():
        raise ArithmeticError(f"the formula {str(formula)[:60]} is complex or not finite at a point")
    return torch.as_tensor(values, dtype=torch.float64).expand(len(x))[:, None]


class Peer:
    """pykan's side: the models of all structures, the best of them and the best formula."""

    def __init__(self, kan: type[nn.Module], data: Data, widths: dict[str, list], seed: int):
        self.kan, self.data, self.widths, self.seed = kan, data, widths, seed
        self.dataset = data.dataset()
        self.fitted, self.formula = Best(data), Best(data)
        self.models: dict[str, nn.Module] = {}  # by structure, as they are after the first steps
        self.steps, self.errors = 0, []

    def train(self, model: nn.Module, steps: int, about: dict | None = None, **options) -> float:
        """L-BFGS steps of pykan's `fit`, the validation error at the end; with `about` every step is a candidate."""

        def watch() -> Tensor:
            self.steps += 1
            if about:
                self.fitted.offer(lambda part: self.data.predict(model, part), **about)
            return torch.zeros(())

        return float(model.fit(self.dataset, opt="LBFGS", steps=steps, metrics=(watch,), **options)["test_loss"][-1])

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """An error inside pykan ends the block and is noted."""
        try:
            yield
        except Exception as error:
            self.errors.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def fit(self) -> None:
        """Every structure at grid 3, then the best first through the finer grids."""
        errors = {}
        for name, width in self.widths.items():
            with self.noting(f"fit {name}"):
                self.models[name] = model = self.kan(width=width, grid=3, k=3, seed=self.seed, auto_save=False)
                error = self.train(model, SCREEN_STEPS, {"structure": name, "grid": 3})
                errors[name] = error if np.isfinite(error) else np.inf
        for name in sorted(errors, key=errors.get):
            with self.noting(f"refine {name}"):
                model = self.models[name]
                for grid in GRIDS:
                    model.get_act(self.dataset["train_input"])
                    model = model.refine(grid)
                    model.auto_save = False
                    self.train(model, REFINE_STEPS, {"structure": name, "grid": grid})

    def find_formula(self) -> None:
        """A formula of every structure, the simplest first, until one leaves no error."""
        for name in self.models:
            with self.noting(f"formula {name}"):
                if self.formula.validation > EXACT:
                    self.snap(name)

    def snap(self, name: str) -> None:
        """Sparsify, prune, train, snap all edges, train the constants, offer the formula."""
        model, x = self.models[name], self.dataset["train_input"]
        self.train(model, SPARSE_STEPS, lamb=LAMB)
        model.get_act(x)
        model = model.prune()
        model.auto_save = False
        self.train(model, PRUNED_STEPS)
        model.get_act(x[:SNAP_POINTS])
        model.auto_symbolic(lib=list(LIBRARY))
        with self.noting(f"untrained formula {name}"):
            self.offer_formula(model, name)
        self.train(model, CONSTANT_STEPS, update_grid=False, singularity_avoiding=True, y_th=torch.tensor(1e3))
        self.offer_formula(model, name)

    def offer_formula(self, model: nn.Module, name: str) -> None:
        """The formula in the units of the data, the rounded one (`ex_round`), its rounded expansion are candidates."""
        rounded = lambda f: f.xreplace({number: sympy.Float(round(number, 4)) for number in f.atoms(sympy.Float)})
        symbols = sympy.symbols(f"x_1:{self.data.x['train'].shape[1] + 1}")
        normalizers = [[v.tolist() for v in moments(part["train"])] for part in (self.data.x, self.data.y)]
        formula = model.symbolic_formula(symbols, *normalizers)[0][0]
        for form in (lambda f: f, rounded, lambda f: rounded(sympy.expand(f))):
            text = form(formula)
            values = lambda part, text=text: formula_values(text, symbols, self.data.x[part])
            self.formula.offer(values, formula=str(text), structure=name)

    def report(self) -> dict:
        """What is known so far; the keys of the formula's own errors begin with formula."""
        found = {key if key == "formula" else f"formula_{key}": value for key, value in self.formula.report.items()}
        return {**self.fitted.report, **found, "steps": self.steps, "errors": self.errors}


def run(peer: Peer, seconds: float, symbolic: bool, write: Callable[[dict], None]) -> None:
    """Fit and, if wanted, search a formula within `seconds`; `write` gets the report after each of the two."""
    start, cpu = time.monotonic(), time.process_time()
    elapsed = lambda: {"seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu}
    with time_limit(seconds * FIT_SHARE if symbolic else seconds):
        peer.fit()
    write(elapsed() | peer.report())
    if symbolic:
        with time_limit(seconds - elapsed()["seconds"]):
            peer.find_formula()
        write(elapsed() | peer.report())


@contextmanager
def quiet_workshop() -> Iterator[None]:
    """A temporary working directory for pykan's ./model, and nothing of its chatter."""
    nowhere = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(nowhere), redirect_stderr(nowhere):
        Path("model").mkdir()
        yield


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("pykan_fit", __doc__)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--structure", nargs="+", help="such as 2,5,1 or 2,5+2,1; default d,H,1 for H = 0+1, 1, 2+1, 5")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--symbolic", action="store_true", help="also search a formula, in 40 %% of the time")
    args = parser.parse_args(argv)
    data, output = load(args.input, args.seed), args.output.resolve()
    inputs = data.x["train"].shape[1]
    widths = {name: structure(name, inputs) for name in args.structure or [f"{inputs},{h},1" for h in HIDDEN]}
    if not args.seconds > 0:
        raise ConfigError(f"--seconds {args.seconds}: allowed are numbers above 0")
    try:
        from kan import KAN
    except ImportError as error:
        raise ConfigError(f"pykan cannot be imported ({error}): pip install -e '.[bench]'") from error
    torch.set_default_dtype(torch.float64)  # pykan takes its precision from there; this process is pykan's alone
    torch.set_num_threads(1)
    settings = {"seed": args.seed, "seconds_allowed": args.seconds, "symbolic": args.symbolic}
    faulthandler.dump_traceback_later(args.seconds + GRACE, exit=True)
    with quiet_workshop():
        write = lambda report: output.write_text(json.dumps(settings | report, indent=1))
        run(Peer(KAN, data, widths, args.seed), args.seconds, args.symbolic, write)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    exiting(main, "pykan_fit")
