"""Training of image classifiers: it learns, resumes bit for bit, selects by validation, and tests once."""

import json
import os
import signal
from dataclasses import replace
from functools import cache

import h5py
import pytest
import torch
from conftest import generator, network, one_line
from torch import nn

from benchmarks.common.study import exiting
from benchmarks.images import classify, conv, data, dense, series
from benchmarks.images.recipes import Recipe, Task
from kanpde.ground.construct import call
from kanpde.ground.errors import ConfigError
from kanpde.training.training import RunFailed

EXAMPLES = {"train": 240, "test": 100}
RECIPE = Recipe(epochs=3, batch=32, lr={"rest": 3e-3}, validation=60)
TASK = Task("tiny", "mlp", {}, RECIPE)
CHANGING = {"wall_s", "peak_memory_bytes"}  # columns that no two runs share


def tiny(name, split, folder=None):
    """Three classes: a bright third of the image, under noise; the label of an image is no function of its number."""
    n = EXAMPLES[split]
    g = generator(len(split))
    y = torch.randint(3, (n,), generator=g)
    x = torch.randint(120, (n, 1, 28, 28), generator=g)
    for label in range(3):
        x[y == label, :, 9 * label : 9 * label + 9] += 20
    return data.Images(x.to(torch.uint8), y)


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
    monkeypatch.setitem(data.DATASETS, "tiny", replace(data.DATASETS["mnist"], classes=3))
    monkeypatch.setattr(data, "read", tiny)
    monkeypatch.setattr(data, "check_present", lambda name, split, folder=None: None)


def build(shape, classes, g):
    """An MLP with what an exact resumption needs too: running statistics, and the random numbers of dropout."""
    middle = nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1)
    first, last = (nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((28 * 28, 8), (8, classes)))
    net = nn.Sequential(nn.Flatten(), first, *middle, last)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 2:
                p.normal_(std=p.shape[1] ** -0.5, generator=g)
            else:
                p.fill_(0.5)
    return net


def ctrl_c_at(step):
    return lambda training: training.step == step and os.kill(os.getpid(), signal.SIGINT)


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def contents(path):
    """(attributes, history, predictions and labels) of a result file."""
    with h5py.File(path) as file:
        columns = {name: column[()] for name, column in file["history"].items()}
        test = {name: column[()] for name, column in file["field"].items()} if "field" in file else {}
        return dict(file.attrs), columns, test


# ---------------------------------------------------------------------------------------------------------------
# Learning and the result file


def test_learns_and_writes_what_it_did(tmp_path):
    path = tmp_path / "new" / "tiny.h5"
    returned = classify.train(TASK, build, path)
    attrs, history, test = contents(path)
    assert attrs["test_accuracy"] > 90  # chance is 33
    assert history["train_loss"][-1] < 0.7 * history["train_loss"][0]
    assert attrs["status"] == "finished" and attrs["schema_version"] == 1 and attrs["kind"] == "classification"
    assert (attrs["train_examples"], attrs["validation_examples"], attrs["test_examples"]) == (180, 60, 100)
    assert (
        attrs["parameters"]
        == attrs["parameters_trainable"]
        == sum(p.numel() for p in build(None, 3, None).parameters())
    )
    assert json.loads(attrs["config"]) == TASK.config() and attrs["seed"] == 0
    assert {"device", "machine", "torch_version", "started", "finished", "test_loss", "seconds"} <= attrs.keys()
    columns = {"epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr", *CHANGING}
    assert history.keys() == columns and all(len(column) == 3 for column in history.values())
    assert list(history["epoch"]) == [1, 2, 3]
    assert attrs["best_validation_accuracy"] == history["validation_accuracy"].max()
    assert attrs["test_accuracy"] == pytest.approx(100 * (test["classes"] == test["labels"]).mean())
    assert (torch.from_numpy(test["labels"]) == tiny("tiny", "test").y).all()
    assert returned == {k: v for k, v in attrs.items() if k != "schema_version"}
    assert list(torch.load(path.with_suffix(".pt"), weights_only=True)) == ["best"]


def test_the_logged_training_loss_is_the_mean_over_all_examples(tmp_path):
    recipe = replace(RECIPE, epochs=1, batch=50, lr={"rest": 1e-12}, precision="float64")  # 50 + 50 + 50 + 30
    task = replace(TASK, recipe=recipe)

    def linear(shape, classes, g):
        return nn.Linear(28 * 28, classes).requires_grad_(True)

    seen = {}
    classify.train(task, linear, tmp_path / "a.h5", on_batch=lambda training: seen.update(training=training))
    training = seen["training"]
    loss, accuracy, _ = training.evaluate(training.train)
    _, history, _ = contents(tmp_path / "a.h5")
    assert history["train_loss"][0] == pytest.approx(loss, rel=1e-6)
    assert history["train_accuracy"][0] == pytest.approx(accuracy)


def test_the_test_set_is_read_once_and_last(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(data, "read", lambda name, split, folder=None: events.append(split) or tiny(name, split))
    note = lambda training: events.append("epoch")
    classify.train(TASK, build, tmp_path / "a.h5", on_epoch=note)
    assert events == ["train", "epoch", "epoch", "epoch", "test"]
    events.clear()
    classify.train(TASK, build, tmp_path / "b.h5", on_batch=ctrl_c_at(8), on_epoch=note)
    assert events == ["train", "epoch"]


def test_training_validation_and_subset_are_disjoint_and_fixed_by_the_seed(monkeypatch):
    numbered = torch.arange(240).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).to(torch.uint8)
    monkeypatch.setattr(data, "read", lambda name, split, folder=None: data.Images(numbered, tiny(name, split).y))
    task = replace(TASK, recipe=replace(RECIPE, train_examples=100))
    train, validation = (images.x[:, 0, 0, 0].tolist() for images in task.splits(None))
    assert (len(set(train)), len(set(validation))) == (100, 60) and not set(train) & set(validation)
    assert task.splits(None)[0].x[:, 0, 0, 0].tolist() == train
    assert replace(task, seed=1).splits(None)[0].x[:, 0, 0, 0].tolist() != train
    with pytest.raises(ConfigError) as info:
        replace(task, recipe=replace(RECIPE, train_examples=181)).splits(None)
    assert "181" in one_line(info) and "180" in one_line(info)


# ---------------------------------------------------------------------------------------------------------------
# Selection by validation


def test_the_weights_with_the_best_validation_are_tested(tmp_path):
    kept = {}

    def spoil(training):
        """After the second epoch, the network knows nothing; its rate is too small to learn again."""
        if len(training.run.history["epoch"]) == 2:
            kept.update(state(training.net))
            for p in training.net.parameters():
                p.data.zero_()
            for group in training.optimizer.param_groups:
                group["base_lr"] = 1e-9

    attrs = classify.train(TASK, build, tmp_path / "a.h5", on_epoch=spoil)
    _, history, _ = contents(tmp_path / "a.h5")
    assert attrs["best_epoch"] == 1 + history["validation_loss"].argmin() == 2
    net, test = build(None, 3, generator()), tiny("tiny", "test")
    net.load_state_dict(kept)
    right = net.eval()(2 * (test.x.float() / 255) - 1).argmax(1) == test.y
    assert attrs["test_accuracy"] == pytest.approx(100 * right.double().mean().item())
    assert attrs["test_accuracy"] > 80
    assert history["validation_accuracy"][2] < 60


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([(0.5, 80.0), (0.4, 90.0), (0.3, 85.0)], 2),
        ([(0.5, 90.0), (0.4, 90.0), (0.6, 90.0)], 2),  # ties go to the smaller loss
        ([(0.5, 90.0), (0.5, 90.0), (0.5, 90.0)], 1),  # and then to the earlier epoch
    ],
)
def test_the_best_epoch(tmp_path, monkeypatch, measured, best):
    rest = iter([*measured, (1.0, 50.0)])
    monkeypatch.setattr(classify.Classification, "evaluate", lambda self, images: (*next(rest), images.y))
    assert classify.train(TASK, build, tmp_path / "a.h5")["best_epoch"] == best


# ---------------------------------------------------------------------------------------------------------------
# Interruption and failure


STOPPED = replace(TASK, recipe=replace(RECIPE, augment="crop", label_smoothing=0.1))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The file of a whole run and its last weights, once for all steps at which another stops."""

    @cache
    def made():
        path, last = tmp_path_factory.mktemp("whole") / "a.h5", {}
        classify.train(STOPPED, build, path, on_epoch=lambda training: last.update(state(training.net)))
        return path, last

    return made


@pytest.mark.parametrize("step", [1, 8, 12, 18])  # of 3 epochs of 6: at the start, within, at an end, at the last
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, step, uninterrupted):
    whole, last_of_whole = uninterrupted()
    last = {}

    def keep(training):
        last[training.run.path.name] = state(training.net)

    attrs = classify.train(STOPPED, build, tmp_path / "b.h5", on_batch=ctrl_c_at(step), on_epoch=keep)
    assert attrs["status"] == "interrupted" == contents(tmp_path / "b.h5")[0]["status"]
    assert "test_accuracy" not in attrs
    steps = []
    classify.train(
        STOPPED,
        build,
        tmp_path / "b.h5",
        resume=True,
        on_epoch=keep,
        on_batch=lambda training: steps.append(training.step),
    )
    assert steps == list(range(step + 1, 19))  # nothing is computed twice
    (attrs, history, test), (attrs_b, history_b, test_b) = contents(whole), contents(tmp_path / "b.h5")
    assert history.keys() == history_b.keys()
    assert all((history[name] == history_b[name]).all() for name in history.keys() - CHANGING)
    for name in ("test_accuracy", "test_loss", "best_epoch", "best_validation_accuracy", "parameters", "config"):
        assert attrs[name] == attrs_b[name], name
    assert (test["classes"] == test_b["classes"]).all()
    best, best_b = (torch.load(path.with_suffix(".pt"))["best"]["weights"] for path in (whole, tmp_path / "b.h5"))
    for one, other in ((last_of_whole, last["b.h5"]), (best, best_b)):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_killed_run_goes_on_after_its_last_epoch(tmp_path):
    def kill(training):
        if training.step == 9:
            raise KeyboardInterrupt  # as a second Ctrl-C does

    with pytest.raises(KeyboardInterrupt):
        classify.train(TASK, build, tmp_path / "a.h5", on_batch=kill)
    attrs, history, _ = contents(tmp_path / "a.h5")
    assert attrs["status"] == "running" and len(history["epoch"]) == 1
    resumed = classify.train(TASK, build, tmp_path / "a.h5", resume=True)
    assert resumed["started"] == attrs["started"]
    assert resumed["test_loss"] == classify.train(TASK, build, tmp_path / "b.h5")["test_loss"]
    assert not list(tmp_path.glob(".*"))  # no temporary file stays


def test_seeds_differ_and_the_global_generator_is_left_alone(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(123)
        before = torch.get_rng_state()
        found = [classify.train(replace(TASK, seed=k), build, tmp_path / f"{k}.h5")["test_loss"] for k in (0, 1, 0)]
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("step", [2, 6])
def test_a_loss_that_is_not_finite_fails_the_run(tmp_path, step):
    def spoil(training):
        if training.step == step:
            training.net[1].weight.data[0, 0] = float("nan")

    with pytest.raises(RunFailed) as info:
        classify.train(TASK, build, tmp_path / "a.h5", on_batch=spoil)
    attrs, history, _ = contents(tmp_path / "a.h5")
    assert attrs["status"] == "failed" and attrs["message"] == one_line(info) and "nan" in attrs["message"]
    assert not history and "test_accuracy" not in attrs


# ---------------------------------------------------------------------------------------------------------------
# Recipe, inputs, groups


def test_the_schedules_reach_their_ends():
    cosine = replace(RECIPE, epochs=4, schedule="cosine")
    assert cosine.factor(0, 10) == 1 and cosine.factor(20, 10) == pytest.approx(0.5)
    assert cosine.factor(40, 10) == pytest.approx(0, abs=1e-15) and 0 < cosine.factor(39, 10) < 2e-3
    shrinking = replace(RECIPE, schedule="exponential", decay=0.5)
    assert [shrinking.factor(step, 10) for step in (0, 10, 20)] == [1, 0.5, 0.25]
    assert replace(RECIPE, schedule="constant").factor(17, 10) == 1


def test_the_learning_rate_falls_every_step(tmp_path):
    rates = []
    classify.train(TASK, build, tmp_path / "a.h5", on_batch=lambda t: rates.append(t.optimizer.param_groups[0]["lr"]))
    assert rates == [3e-3 * RECIPE.factor(step, 6) for step in range(18)]
    assert list(contents(tmp_path / "a.h5")[1]["lr"]) == [rates[5], rates[11], rates[17]]


def test_groups_have_their_own_rates_and_move_by_them():
    net = network("metakan", 4, dim_out=3).float()
    recipe = replace(RECIPE, lr={"prompts": 1e-2, "meta": 1e-3, "rest": 0.5}, weight_decay=0.1)
    optimizer = classify.make_optimizer(recipe, net)
    learner = net[0].weights.learner
    found = {group["name"]: group for group in optimizer.param_groups}
    assert {name: group["lr"] for name, group in found.items()} == {"prompts": 1e-2, "meta": 1e-3}
    assert [id(p) for p in found["prompts"]["params"]] == [id(layer.weights.prompts) for layer in net]
    assert {id(p) for p in found["meta"]["params"]} == {id(p) for p in learner.parameters()}
    assert all(group["weight_decay"] == 0.1 for group in found.values())
    net[0].weights.prompts.requires_grad_(False)
    frozen = classify.make_optimizer(replace(recipe, lr={"rest": 0.5}), net)
    assert sum(len(group["params"]) for group in frozen.param_groups) == len(list(net.parameters())) - 1
    assert all(group["lr"] == 0.5 for group in frozen.param_groups)


def test_scaling_and_shape_of_the_inputs():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 28, 28)
    flat = TASK.inputs(x)
    assert flat.shape == (2, 784) and flat.dtype == torch.float32
    assert (flat[0] == -1).all() and (flat[1] == 1).all()
    standard = replace(TASK, flat=False, recipe=replace(RECIPE, scaling="standard")).inputs(x)
    assert standard.shape == x.shape
    info = data.DATASETS["tiny"]
    assert standard[1, 0, 0, 0].item() == pytest.approx((1 - info.mean[0]) / info.std[0])
    shifted = replace(TASK, recipe=replace(RECIPE, augment="crop"))
    assert torch.equal(shifted.inputs(x), flat)  # validation and test images stay
    assert not torch.equal(shifted.inputs(x, generator()), flat)
    colour = replace(TASK, dataset="cifar10")
    assert colour.shape == (3, 28, 28) and replace(colour, flat=False).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": {"prompt": 1e-3, "rest": 1e-3}}, "prompts"),
        ({"lr": {"meta": 1e-3}}, "rest"),
        ({"schedule": "cosin"}, "cosine"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"label_smoothing": 1.0}, "less than 1"),
    ],
)
def test_a_bad_recipe_is_one_line(values, words):
    with pytest.raises(ConfigError) as info:
        call("recipe", Recipe, values)
    assert words in one_line(info)


# ---------------------------------------------------------------------------------------------------------------
# The command lines


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a command line on the stub network: (exit code, output, complaints)."""
    monkeypatch.chdir(tmp_path)
    specs = []

    def stub(spec, shape, classes, g):
        specs.append(spec)
        if spec.get("grid_size") == 99:
            raise ConfigError("backbone mlp: grid_size 99")
        return build(shape, classes, g)

    for module in (dense, conv):
        monkeypatch.setattr(module, "FAMILY", replace(module.FAMILY, build=stub))

    def run(line, module=dense):
        code = 0
        try:
            exiting(lambda: module.main(line.split()), "x")
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    run.specs = specs
    return run


GOOD = "--dataset tiny --backbone mlp --epochs 1 --lr 0.01"


def test_several_seeds_a_table_and_no_work_twice(command, tmp_path):
    code, said, complaints = command(f"{GOOD} --seeds 2 --hidden 32,16 --grid 5 --set a=[1,2] --weight-decay 0")
    assert code == 0 and not complaints and "±" in said
    paths = sorted((tmp_path / "runs/images").glob("*.h5"))
    assert [p.name for p in paths] == [f"tiny-mlp-32-16-g5-a1-2-seed{k}.h5" for k in (0, 1)]
    assert command.specs[0] == {"name": "mlp", "hidden": (32, 16), "grid_size": 5, "a": [1, 2]}  # only what was given
    config = json.loads(contents(paths[0])[0]["config"])
    assert config["recipe"]["lr"] == {**dense.DEFAULT.lr, "rest": 0.01}
    assert (config["recipe"]["epochs"], config["recipe"]["weight_decay"]) == (1, 0)
    assert config["options"]["hidden"] == [32, 16]
    accuracy = [contents(p)[0]["test_accuracy"] for p in paths]
    assert f"{sum(accuracy) / 2:.2f} ± {abs(accuracy[0] - accuracy[1]) / 2**0.5:.2f}" in said
    times = [p.stat().st_mtime_ns for p in paths]
    code, again, _ = command(f"{GOOD} --seeds 0,1 --hidden 32,16 --grid 5 --set a=[1,2] --weight-decay 0")
    assert code == 0 and "finished before" in again and f"{accuracy[1]:.2f}" in again
    assert [p.stat().st_mtime_ns for p in paths] == times
    code, _, complaints = command(f"{GOOD} --hidden 32,16 --grid 5 --set a=[1,2] --weight-decay 0.5")
    assert code == 2 and "recipe.weight_decay 0.0, now 0.5" in complaints and "--again" in complaints


def test_ctrl_c_and_the_same_command_line_again(command, tmp_path, monkeypatch):
    batch = series._Show.batch
    line = f"{GOOD} --epochs 2 --batch 32"
    monkeypatch.setattr(series._Show, "batch", lambda self, training: ctrl_c_at(9)(training))
    code, said, complaints = command(f"{line} --seeds 2")
    assert code == 130 and not complaints and "the same command line goes on" in said
    monkeypatch.setattr(series._Show, "batch", batch)
    assert command(f"{line} --seeds 2")[0] == 0
    assert command(f"{line} --out fresh")[0] == 0
    one, other = (contents(tmp_path / folder / "tiny-mlp-seed0.h5") for folder in ("runs/images", "fresh"))
    assert one[0]["test_loss"] == other[0]["test_loss"]
    code, said, _ = command("--resume fresh/tiny-mlp-seed0.h5")
    assert code == 0 and "finished before" in said


def test_conv_augments_and_keeps_images(command, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "cifar10", data.DATASETS["tiny"])
    assert command("--dataset cifar10 --model mlp --layers 8 --epochs 1 --out . --quiet", conv) == (0, "", "")
    assert command("--dataset tiny --model mlp --layers 8 --epochs 1 --out . --tag b --quiet", conv) == (0, "", "")
    found = [contents(tmp_path / name)[0] for name in ("cifar10-mlp-l8-seed0.h5", "tiny-mlp-l8-b-seed0.h5")]
    assert [json.loads(attrs["config"])["recipe"]["augment"] for attrs in found] == ["flip-crop", "none"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--dataset tiny", "give --backbone"),
        ("--dataset mnst --backbone mlp", "did you mean mnist"),
        (f"{GOOD} --epochs 0", "epochs"),
        (f"{GOOD} --lr -1", "lr"),
        (f"{GOOD} --hidden 3x", "--hidden"),
        (f"{GOOD} --grid 99", "grid_size 99"),
        (f"{GOOD} --seeds 0", "--seeds"),
        (f"{GOOD} --seeds 1,-1", "--seeds"),
        (f"{GOOD} --augment flop", "crop"),
        (f"{GOOD} --schedule cosin", "cosine"),
        (f"{GOOD} --train-examples 500", "500"),
        (f"{GOOD} --validation 240", "239"),
        (f"{GOOD} --device cuba", "cpu"),
        (f"{GOOD} --set a", "--set 'a'"),
        (f"{GOOD} --optimiser sgd", "--optimiser"),
        (f"{GOOD} --out {__file__}", "no folder"),
        ("--resume nothing.h5", "no such file"),
        ("--resume nothing.h5 --epochs 3", "epochs"),
    ],
)
def test_a_bad_call_is_one_line_and_leaves_nothing(command, tmp_path, line, words):
    code, _, complaints = command(line)
    assert code == 2 and words in complaints and complaints.count("\n") == 1, complaints
    assert not list(tmp_path.rglob("*"))
