"""Training of one image classifier: a visible loop, model selection on a validation split, and exact resumption."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.common.machine import machine
from benchmarks.images.data import Images
from benchmarks.images.recipes import Recipe, Task
from kanpde.ground.samplers import stream
from kanpde.kan.network import count_parameters, parameter_groups
from kanpde.records.run import RunFile
from kanpde.runs.models import fitting, load_checkpoint
from kanpde.training.training import RunFailed, Training, now, weights_of

EVALUATION_BATCH = 500
LOOK = 20  # batches between two looks at the loss: a GPU waits at each

Build = Callable[[tuple[int, int, int], int, torch.Generator], nn.Module]  # (C, H, W), classes, generator -> network
Show = Callable[["Classification"], None]


def train(
    task: Task,
    build: Build,
    path: Path,
    folder: Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    on_batch: Show | None = None,
    on_epoch: Show | None = None,
) -> dict:
    """Train a classifier, test its best weights, and leave a result file; returns the attributes of the file.

    Args:
        path: the result file (.h5); its checkpoint lies beside it with the suffix .pt.
        folder: where the data sets are; default $KANPDE_DATA.
        resume: go on where the checkpoint ends, to the result of a run that was never interrupted.
        on_batch, on_epoch: called with the `Classification` after each batch and each epoch.
    Raises:
        ConfigError: the data, the model or the checkpoint are not what the task says; nothing was written.
        RunFailed: the loss is not finite, or a result cannot be written.
    """
    net = build(task.shape, task.info.classes, stream(task.seed, "network"))
    training = Classification(task, net, folder, path, device)
    if resume:
        with fitting(path.with_suffix(".pt")):
            training.load_state_dict(load_checkpoint(path.with_suffix(".pt")))
    path.parent.mkdir(parents=True, exist_ok=True)
    training.drive(on_batch, on_epoch)
    return training.run.attrs


def make_optimizer(recipe: Recipe, net: nn.Module) -> torch.optim.Optimizer:
    """AdamW with a group each for prompts, meta-learners and the rest, as far as they exist and are trained."""
    groups = parameter_groups(net)
    rates = {name: recipe.lr.get(name, recipe.lr["rest"]) for name in groups}
    named = [{"params": ps, "lr": rates[name], "base_lr": rates[name], "name": name} for name, ps in groups.items()]
    return torch.optim.AdamW(named, weight_decay=recipe.weight_decay)


@contextmanager
def dropout_stream(seed: int, step: int, device: torch.device):
    """Seed torch's global generators by the step, for dropout knows no other; afterwards they are as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(stream(seed, f"dropout/{step}").initial_seed())
        yield


class Classification(Training):
    """One run: network, data, optimiser, and all that the result file and the checkpoint hold.

    All randomness follows from the seed and the number of the epoch or step, so a checkpoint stores no generator.
    """

    step = 0

    def __init__(self, task: Task, net: nn.Module, folder: Path | None, path: Path, device: str = "cpu"):
        super().__init__(RunFile(path), torch.device(device))
        self.task, self.folder = task, folder
        self.net = net.to(self.device, getattr(torch, task.recipe.precision)).train()
        self.train, self.validation = (self._here(images) for images in task.splits(folder))
        self.optimizer = make_optimizer(task.recipe, self.net)
        whole, rest = divmod(len(self.train), task.recipe.batch)
        self.per_epoch = max(1, whole + (rest > 1))  # a batch norm cannot do with a single example
        self.steps = task.recipe.epochs * self.per_epoch
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # of this epoch: loss, correct, examples
        self.best: dict = {"accuracy": -1.0, "loss": float("inf"), "epoch": 0, "weights": None}
        self.order: tuple[int, Tensor] | None = None
        self.run.attrs = self._attributes()

    def _here(self, images: Images) -> Images:
        return Images(images.x.to(self.device), images.y.to(self.device))

    def _attributes(self) -> dict:
        task = self.task
        return {
            "kind": "classification",
            "config": json.dumps(task.config()),
            "dataset": task.dataset,
            "model": task.model,
            "seed": task.seed,
            "parameters": count_parameters(self.net),
            "parameters_trainable": count_parameters(self.net, include_frozen=False),
            "device": str(self.device),
            "machine": machine(str(self.device)),
            "torch_version": str(torch.__version__),
            "started": now(),
            "train_examples": len(self.train),
            "validation_examples": len(self.validation),
            "test_examples": 0,  # not read yet
        }

    def walk(self, on_batch: Show | None = None, on_epoch: Show | None = None) -> Iterator[bool]:
        """Train to the last epoch.

        Raises:
            RunFailed: the loss is not finite, or a result cannot be written.
        """
        if not self.step:
            self.save("running")
        while self.step < self.steps:
            self._batch()
            end = self.step % self.per_epoch == 0
            if end or self.step % LOOK == 0:
                self._check_finite()
            if on_batch:
                on_batch(self)
            if end:
                self._end_epoch()
                if on_epoch:
                    on_epoch(self)
            yield False

    def _batch(self) -> None:
        task, recipe = self.task, self.task.recipe
        epoch, number = divmod(self.step, self.per_epoch)
        rows = self._shuffled(epoch)[number * recipe.batch : (number + 1) * recipe.batch]
        generator = stream(task.seed, f"augment/{self.step}", self.device)
        x, y = task.inputs(self.train.x[rows], generator), self.train.y[rows]
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * recipe.factor(self.step, self.per_epoch)
        self.optimizer.zero_grad()
        with dropout_stream(task.seed, self.step, self.device):
            logits = self.net(x)
        loss = cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        loss.backward()
        self.optimizer.step()
        correct = (logits.detach().argmax(1) == y).sum()
        self.sums += torch.stack([loss.detach().double() * len(y), correct.double(), correct.new_full((), len(y))])
        self.step += 1

    def _shuffled(self, epoch: int) -> Tensor:
        if self.order is None or self.order[0] != epoch:
            rows = torch.randperm(len(self.train), generator=stream(self.task.seed, f"shuffle/{epoch}"))
            self.order = epoch, rows.to(self.device)
        return self.order[1]

    def running(self) -> tuple[float, float]:
        """Training loss (smoothed labels included) and accuracy in percent, over the epoch so far."""
        loss, correct, examples = self.sums.tolist()
        return loss / examples, 100 * correct / examples

    def _check_finite(self) -> None:
        loss = self.sums[0].item()  # one that is not finite makes the sum so
        if not abs(loss) < float("inf"):
            epoch = (self.step - 1) // self.per_epoch + 1
            raise RunFailed(f"the training loss is {loss} (epoch {epoch}, noticed after step {self.step})")

    def _end_epoch(self) -> None:
        """Validate, keep the best weights, log a row, write both files."""
        epoch = self.step // self.per_epoch
        loss, accuracy, _ = self.evaluate(self.validation)
        if not abs(loss) < float("inf"):
            raise RunFailed(f"the validation loss is {loss} after epoch {epoch}")
        if (accuracy, -loss) > (self.best["accuracy"], -self.best["loss"]):
            self.best = {"accuracy": accuracy, "loss": loss, "epoch": epoch, "weights": weights_of(self.net)}
        train_loss, train_accuracy = self.running()
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "wall_s": self.clock.seconds(),
            "peak_memory_bytes": max([self.memory.bytes(), *self.run.history.get("peak_memory_bytes", [])]),
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
        }
        self.run.log(row)
        self.sums.zero_()
        self.save("running")

    @torch.no_grad()
    def evaluate(self, images: Images) -> tuple[float, float, Tensor]:
        """Cross entropy, accuracy in percent, and the predicted classes."""
        self.net.eval()
        loss, predicted = 0.0, []
        for x, y in zip(images.x.split(EVALUATION_BATCH), images.y.split(EVALUATION_BATCH), strict=True):
            logits = self.net(self.task.inputs(x))
            loss += cross_entropy(logits.double(), y, reduction="sum").item()
            predicted.append(logits.argmax(1))
        self.net.train()
        classes = torch.cat(predicted)
        return loss / len(images), 100 * (classes == images.y).double().mean().item(), classes

    # -----------------------------------------------------------------------------------------------------------
    # Files

    def finish(self) -> str:
        """Test the best weights, once; the only time that the test set is read."""
        images = self._here(self.task.read("test", self.folder))
        last = weights_of(self.net)
        self.net.load_state_dict(self.best["weights"])
        try:
            loss, accuracy, classes = self.evaluate(images)
        finally:
            self.net.load_state_dict(last)
        self.run.set_field({name: t.byte().cpu().numpy() for name, t in (("classes", classes), ("labels", images.y))})
        self.run.attrs.update(
            test_examples=len(images),
            test_accuracy=accuracy,
            test_loss=loss,
            best_epoch=self.best["epoch"],
            best_validation_accuracy=self.best["accuracy"],
            seconds=self.clock.seconds(),
        )
        return "finished"

    def save(self, status: str) -> None:
        self._check_finite()  # an interrupted epoch may not have looked yet
        super().save(status)

    def state_dict(self) -> dict:
        if self.run.attrs["status"] == "finished":
            return {"best": self.best}
        return {
            "weights": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "sums": self.sums,
            "best": self.best,
            "history": self.run.history,
            "elapsed": self.clock.seconds(),
            "started": self.run.attrs["started"],
        }

    def load_state_dict(self, saved: dict) -> None:
        self.net.load_state_dict(saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.sums = saved["step"], saved["sums"].to(self.device)
        self.best, self.run.history = saved["best"], saved["history"]
        self.elapsed, self.run.attrs["started"] = saved["elapsed"], saved["started"]
