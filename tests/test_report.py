"""Printed and measured numbers land in the right cells, and the figures draw what was measured."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line

from benchmarks.common import printed
from benchmarks.common.study import exiting
from benchmarks.paper import figures, report
from kanpde.ground.errors import ConfigError
from kanpde.runs.models import Run

SOURCE = Path(__file__).parents[2] / "shared" / "paper" / "printed_results.json"
EPOCHS = 4


def classified(path, model="kan", dataset="mnist", accuracy=90.0, seed=0, options=None, recipe=None, **attrs) -> Path:
    """A result file as benchmarks.classify writes it."""
    run = Run(path)
    config = {
        "dataset": dataset,
        "model": model,
        "options": options or {},
        "recipe": {"epochs": EPOCHS, **(recipe or {})},
    }
    run.attrs |= {
        "kind": "classification",
        "status": "finished",
        "config": json.dumps(config),
        "dataset": dataset,
        "model": model,
        "seed": seed,
        "parameters": 228_714,
        "train_examples": printed.TRAINING_IMAGES[dataset] - 5000,
        "validation_examples": 5000,
        "test_accuracy": accuracy,
        **attrs,
    }
    for epoch in range(1, EPOCHS + 1):
        row = {"train_loss": 1 / epoch, "validation_loss": 1.5 / epoch, "wall_s": epoch}
        run.log({"epoch": epoch, "train_accuracy": 20.0 * epoch + seed, "validation_accuracy": 19.0 * epoch, **row})
    path.parent.mkdir(parents=True, exist_ok=True)
    run.save()
    return path


def lines(table: int, folder: Path, **wanted) -> list[dict]:
    """The lines of a table as dictionaries, those that have the cells wanted (data_set="MNIST", ...)."""
    built = report.build(table, report.find([folder])[0])
    found = [dict(zip(built.columns, line, strict=True)) for line in built.lines]
    return [row for row in found if all(row[name.replace("_", " ")] == value for name, value in wanted.items())]


def measured(table: int, folder: Path) -> list[dict]:
    return [row for row in lines(table, folder) if row["accuracy measured"] != "-"]


# ---------------------------------------------------------------------------------------------------------------
# The printed tables


@pytest.mark.skipif(not SOURCE.is_file(), reason="the shared folder is not here")
def test_printed_numbers_are_those_of_their_source():
    assert json.loads(printed.PATH.read_text()) == json.loads(SOURCE.read_text())


def test_printed_rows():
    assert {t: len(printed.rows(t)) for t in range(2, 10)} == {2: 68, 3: 48, 4: 36, 5: 72, 6: 72, 7: 72, 8: 18, 9: 24}
    assert printed.rows(5)[0]["accuracy_printed"] == 51.16
    assert len(printed.PATH.read_text().splitlines()) == 410 + 2 * 8 + 2, "one row a line"


def test_unknown_table_is_one_line():
    with pytest.raises(ConfigError) as info:
        printed.rows(1)
    assert "'1'" in one_line(info)


def test_no_two_rows_of_a_table_claim_the_same_runs():
    for table in report.TITLES:
        claims = [json.dumps([row["model"], row["dataset"], printed.options(row)]) for row in printed.rows(table)]
        assert len(set(claims)) == len(claims)


# ---------------------------------------------------------------------------------------------------------------
# Tables


def test_mean_and_deviation_over_seeds_stand_beside_the_printed_number(tmp_path):
    for seed, accuracy in enumerate((90.0, 92.0, 97.0)):
        classified(tmp_path / f"deep/er/{seed}.h5", accuracy=accuracy, seed=seed)
    (row,) = measured(5, tmp_path)
    assert row == {
        "data set": "MNIST",
        "hidden": "32",
        "G": "5",
        "model": "KAN",
        "parameters printed": "228,714",
        "parameters ours": "228,714",
        "accuracy printed": "93.60",
        "accuracy measured": "93.00 ± 3.61",  # sqrt((9 + 1 + 16) / 2)
        "seeds": "3",
        "epochs": "4",
        "note": "",
    }
    assert len(lines(5, tmp_path)) == 72


ROWS = {  # table, model, data set, options: the cells that identify the row, and its printed accuracy
    "grid": (5, "metakan", "svhn", {"hidden": [32, 32], "grid_size": 3}, {"hidden": "32,32", "G": "3"}, "78.10"),
    "default centres": (6, "fastkan", "fashion-mnist", {}, {"hidden": "32", "centres": "8"}, "87.41"),
    "centres": (6, "metafastkan", "cifar100", {"centers": 13, "hidden": [32, 32]}, {"centres": "13"}, "23.17"),
    "default wavelet": (7, "wavkan", "svhn", {}, {"wavelet": "mexican_hat"}, "67.05"),
    "wavelet": (7, "metawavkan", "kmnist", {"wavelet": "dog", "hidden": [32, 32]}, {"wavelet": "dog"}, "80.63"),
    "conv": (3, "kagnconv", "cifar10", {"layers": 8}, {"layers": "8"}, "84.69 ± 0.74"),
    "default conv": (3, "metakanconv", "cifar10", {}, {"layers": "4", "C": "1"}, "45.97 ± 6.22"),
    "per layer": (3, "metakanconv", "mnist", {"layers": 8, "clusters": 8}, {"C": "8"}, "99.46 ± 0.08"),
    "a meta-learner for each layer": (
        3,
        "metafastkanconv",
        "mnist",
        {"layers": 8, "clusters": "layer"},
        {"C": "8"},
        "99.42 ± 0.08",
    ),
    "ablation": (
        9,
        "metafastkanconv",
        "cifar100",
        {"layers": 8, "clusters": 7, "prompt_dim": 4},
        {"C": "7", "prompt": "4"},
        "52.02 ± 1.07",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_options_lead_to_their_row_and_to_no_other(tmp_path, name):
    table, model, dataset, options, cells, accuracy = ROWS[name]
    classified(tmp_path / "a.h5", model, dataset, options=options, accuracy=12.345)
    (row,) = measured(table, tmp_path)
    assert (
        row["accuracy printed"] == accuracy and row["accuracy measured"] in ("12.35", "12.34") and row["seeds"] == "1"
    )
    assert row["model"].lower() == model and cells.items() <= row.items()
    assert not any(measured(other, tmp_path) for other in report.TITLES if other != table)


def test_meta_convolutions_of_table_9_can_belong_to_table_3_too(tmp_path):
    classified(tmp_path / "a.h5", "metakanconv", "cifar100", options={"layers": 8, "clusters": 7, "prompt_dim": 2})
    assert [row["accuracy printed"] for table in (3, 9) for row in measured(table, tmp_path)] == ["44.17 ± 3.19"] * 2


def test_unfinished_runs_are_left_out_with_a_note(tmp_path):
    classified(tmp_path / "good.h5", accuracy=95.0)
    for status in ("running", "failed", "interrupted"):
        classified(tmp_path / f"{status}-1.h5", accuracy=1.0, seed=1, status=status)
    assert [row["accuracy measured"] for row in measured(5, tmp_path)] == ["95.00"]
    text = report.report([tmp_path])
    assert all(f"- Left out, {status}: {status}-1.h5" in text for status in ("running", "failed", "interrupted"))


def test_runs_on_a_subset_stand_apart_with_a_footnote(tmp_path):
    classified(tmp_path / "a.h5", accuracy=95.0)
    subset = {"train_examples": 1000, "validation_examples": 500}
    classified(tmp_path / "b.h5", accuracy=50.0, recipe={"train_examples": 1000}, **subset)
    built = report.build(5, report.find([tmp_path])[0])
    assert [row["accuracy measured"] for row in measured(5, tmp_path)] == ["95.00", "50.00"]
    assert [row["note"] for row in measured(5, tmp_path)] == ["", "[1]"]
    assert built.footnotes == ["[1] trained on 1,000 of the 60,000 training images"]


def test_other_splits_stand_in_the_row_of_their_data_set_with_a_footnote(tmp_path):
    classified(tmp_path / "a.h5", dataset="kmnist-test-split", accuracy=70.0)
    (row,) = measured(5, tmp_path)
    assert (row["data set"], row["accuracy printed"], row["note"]) == ("KMNIST", "78.28", "[1]")
    assert "[1] trained and tested on parts of the official KMNIST test images" in report.report([tmp_path], [5])


def test_different_recipes_are_not_averaged(tmp_path):
    classified(tmp_path / "a.h5", accuracy=90.0, recipe={"lr": {"rest": 0.1}})
    classified(tmp_path / "b.h5", accuracy=80.0, recipe={"lr": {"rest": 0.2}})
    classified(tmp_path / "c.h5", accuracy=82.0, recipe={"lr": {"rest": 0.2}}, seed=1, options={"hidden": [32]})
    built = report.build(5, report.find([tmp_path])[0])
    assert [row["accuracy measured"] for row in measured(5, tmp_path)] == ["90.00", "81.00 ± 1.41"]
    assert built.footnotes == ["[1] lr.rest 0.1", "[2] lr.rest 0.2"]


def test_a_seed_counts_once(tmp_path):
    classified(tmp_path / "a.h5", accuracy=90.0)
    classified(tmp_path / "b.h5", accuracy=10.0)
    assert [row["accuracy measured"] for row in measured(5, tmp_path)] == ["90.00"]
    assert "- Left out: b.h5 repeats seed 0 of a.h5" in report.report([tmp_path])


def test_runs_of_no_row_are_named(tmp_path):
    classified(tmp_path / "wide.h5", options={"hidden": [64]})
    assert not measured(5, tmp_path)
    assert "- In no row of these tables: wide.h5" in report.report([tmp_path], [3])


def test_other_results_are_passed_over_and_broken_files_noted(tmp_path):
    (tmp_path / "junk.h5").write_text("junk")
    classified(tmp_path / "pde.h5", kind="pde")
    run = Run.open(classified(tmp_path / "lacking.h5"))
    del run.attrs["test_accuracy"]
    run.save()
    runs, notes = report.find([tmp_path])
    assert not runs and len(notes) == 2
    assert "lacking.h5: a damaged classification result (KeyError: 'test_accuracy')" in notes[1]
    assert "junk.h5: not a readable HDF5 file" in notes[0]
    assert "No finished run was found" in report.report([tmp_path], [9])


def test_markdown_and_text_have_the_same_cells(tmp_path):
    classified(tmp_path / "a.h5", accuracy=94.321)
    text, markdown = (report.report([tmp_path], [5], style) for style in ("text", "markdown"))
    row = "| MNIST | 32 | 5 | KAN | 228,714 | 228,714 | 93.60 | 94.32 | 1 | 4 |  |"
    assert row in markdown.splitlines()
    assert row.replace("|", " ").split() in [line.split() for line in text.splitlines()]
    columns = {line.count("|") for line in markdown.splitlines() if line.startswith("|")}
    assert columns == {12}


def test_the_command_line_writes_the_tables_asked_for(tmp_path, capsys):
    out = tmp_path / "new/tables.md"
    report.main(["--runs", str(tmp_path), "--table", "7", "9", "--format", "markdown", "--out", str(out)])
    headings = [line for line in out.read_text().splitlines() if line.startswith("#")]
    assert [heading.split(".")[0] for heading in headings] == ["## Table 7", "## Table 9"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "4"], "invalid choice: 4"),
        (["--format", "html"], "html"),
        (["--runs", "nowhere"], "nowhere: no such file or folder"),
        (["--runs", "junk.h5"], "junk.h5: not a readable HDF5 file"),
        (["--runs", "pde.h5"], "pde.h5: a result, but not of a classification run"),
        (["--out", "junk.h5/tables.md"], "junk.h5"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("junk.h5").write_text("junk")
    classified(Path("pde.h5"), kind="pde")
    with pytest.raises(SystemExit) as info:
        exiting(lambda: report.main(arguments), "report")
    error = capsys.readouterr().err
    assert info.value.code == 2 and error.count("\n") == 1 and error.startswith("report: ") and said in error


def test_an_unknown_figure_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as info:
        exiting(lambda: figures.main(["tradeof"]), "figures")
    error = capsys.readouterr().err
    assert info.value.code == 2 and error.count("\n") == 1 and "'tradeof'" in error


# ---------------------------------------------------------------------------------------------------------------
# Figures


def found(folder: Path) -> list[report.Measured]:
    return report.find([folder])[0]


def test_tradeoff_draws_hollow_printed_and_filled_measured_points(tmp_path):
    classified(tmp_path / "a.h5", "kan", accuracy=94.0)
    classified(tmp_path / "b.h5", "metakan", accuracy=95.0, parameters=27_968)
    classified(tmp_path / "c.h5", "metakan", accuracy=97.0, parameters=27_968, seed=1)
    classified(tmp_path / "d.h5", "kan", "fashion-mnist", accuracy=3.0, train_examples=10)
    figure = figures.tradeoff(found(tmp_path))
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("parameters", "test accuracy (%)", "log")
    filled = [line for line in ax.lines if line.get_markerfacecolor() != "none"]
    points = {line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0]) for line in filled}
    assert points == {"o": (228_714, 94.0), "s": (27_968, 96.0)}, "without the run on ten images"
    assert {line.get_color() for line in filled} == {figures.DATASETS["MNIST"]}
    hollow = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert len(hollow) == 12 and (228_714, 93.60) in hollow and (27_968, 96.69) in hollow
    arrows = [(text.xyann, text.xy) for text in ax.texts]
    assert len(arrows) == 7 and ((228_714, 94.0), (27_968, 96.0)) in arrows, "from each KAN to its MetaKAN"
    assert [len(panel.lines) for panel in figure.axes[1:]] == [12, 12, 6], "printed alone"
    assert [text.get_text() for text in figure.legends[0].get_texts()][:6] == list(printed.DATASETS)


def test_curves_draw_the_mean_over_seeds_and_its_range(tmp_path):
    for seed in (0, 2):
        classified(tmp_path / f"kan{seed}.h5", seed=seed)
    classified(tmp_path / "metakan.h5", "metakan")
    figure = figures.curves(found(tmp_path))
    loss, accuracy = figure.axes
    assert (loss.get_xlabel(), loss.get_ylabel(), loss.get_yscale()) == ("epoch", "loss", "log")
    assert (accuracy.get_ylabel(), accuracy.get_yscale()) == ("accuracy (%)", "linear")
    assert len(loss.lines) == len(accuracy.lines) == 4 and len(accuracy.collections) == 2, "a band for one of two"
    training = accuracy.lines[0]
    assert training.get_linestyle() == "--" and training.get_xdata().tolist() == [1, 2, 3, 4]
    assert training.get_ydata().tolist() == [21, 41, 61, 81], "mean of seeds 0 and 2"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["KAN, 2 seeds", "MetaKAN", "validation", "training"]


def test_curves_of_many_runs_are_refused(tmp_path):
    for i in range(8):
        classified(tmp_path / f"{i}.h5", recipe={"lr": i})
    with pytest.raises(ConfigError) as info:
        figures.curves(found(tmp_path))
    assert "8 different runs on mnist: name at most 7" in one_line(info)


def memory_csv(path: Path, sizes=(64, 256, 1024), grids=(5, 10, 20)) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "width", "grid", "meta_hidden", "batch", "connections", "parameters", "peak_bytes"])
        for model, hidden in (("kan", ""), ("metakan", 32), ("metakan", 64)):
            for width, grid in [(w, 5) for w in sizes] + [(256, g) for g in grids if g != 5]:
                peak = width * 10**6 * (grid if model == "kan" else 1)
                writer.writerow([model, width, grid, hidden, 128, width**2, width**2, peak])
    return path


def test_memory_against_connections_and_grid_size(tmp_path):
    (_, figure), *others = figures.FIGURES["memory"]([memory_csv(tmp_path / "memory.csv")])
    left, right = figure.axes
    labels = ["KAN", "MetaKAN, meta-learner 32", "MetaKAN, meta-learner 64"]
    assert not others and [line.get_label() for line in left.lines] == labels
    assert [text.get_text() for text in right.get_legend().get_texts()] == labels
    assert (left.get_xlabel(), left.get_title(), right.get_title()) == ("connections", "G = 5", "width 256")
    assert (right.get_xlabel(), right.get_ylabel()) == ("grid size G", "peak memory in training (MB)")
    assert np.array(left.lines[0].get_data()).tolist() == [[64**2, 256**2, 1024**2], [320, 1280, 5120]]
    assert np.array(right.lines[1].get_data()).tolist() == [[5, 10, 20], [256, 256, 256]]


def features(path: Path, model: str, classes: int = 3, n: int = 40) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    np.savez(path, features=rng.normal(size=(n, 5)) + 9 * labels[:, None], labels=labels, model=model)
    return path


def test_tsne_draws_each_class_of_both_models_kan_first(tmp_path):
    pytest.importorskip("sklearn")
    features(tmp_path / "a.npz", "metakan")
    features(tmp_path / "b.npz", "kan")
    figures.main(["tsne", "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out/tsne.png").stat().st_size > 10_000
    ((_, figure),) = figures.FIGURES["tsne"]([tmp_path])
    assert [ax.get_title() for ax in figure.axes] == ["KAN", "MetaKAN"]
    for ax in figure.axes:
        assert [len(dots.get_offsets()) for dots in ax.collections] == [14, 13, 13]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_without_scikit_learn_tsne_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ConfigError) as info:
        figures.tsne([("kan", np.zeros((5, 2)), np.zeros(5))])
    assert "scikit-learn" in one_line(info)


@pytest.mark.parametrize(
    ("figure", "content", "said"),
    [
        ("memory", None, "no memory.csv in"),
        ("memory", "model,width\nkan,3\n", "not a table of model, width"),
        ("memory", "model,width,grid,meta_hidden,batch,connections,parameters,peak_bytes\n", "no rows"),
        (
            "memory",
            "model,width,grid,meta_hidden,batch,connections,parameters,peak_bytes\nkan,3,5,,1,9,9,much\n",
            "much",
        ),
        ("memory", "model,width,grid,meta_hidden,batch,connections,parameters,peak_bytes\nkan,3\n", "not a table"),
        ("curves", None, "no finished run in"),
        ("tsne", None, "no *.npz in"),
        ("tsne", "junk", "not an .npz file of features, labels, model"),
    ],
)
def test_wrong_data_of_a_figure_is_one_line(tmp_path, figure, content, said):
    if content is not None:
        (tmp_path / {"memory": "memory.csv", "tsne": "a.npz"}[figure]).write_text(content)
    with pytest.raises(ConfigError) as info:
        figures.main([figure, "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert said in one_line(info)


def test_figures_are_written_where_asked(tmp_path, capsys):
    classified(tmp_path / "runs/a.h5")
    classified(tmp_path / "runs/b.h5", dataset="svhn")
    memory_csv(tmp_path / "runs/memory.csv")
    names = ["tradeoff", "curves", "memory"]
    figures.main([*names, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--format", "pdf"])
    written = ["tradeoff.pdf", "curves-mnist.pdf", "curves-svhn.pdf", "memory.pdf"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in written]
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"%PDF") for name in written)
