"""What loggers write is what the result file has; they change no bit of a run, and none of them ends it."""

import warnings

import numpy as np
import pytest
import yaml
from conftest import call, interrupt_after, one_line

from kanpde import ConfigError, Run, loggers, resume, train
from kanpde.config import load
from kanpde.loggers.base import Logger, flat
from kanpde.problems import Poisson
from kanpde.runs.rerun import OF_THE_MACHINE, rerun
from kanpde.runs.stored import config_of

SMALL = {
    "backbone": "mlp",
    "points": {"interior": 20, "test": 200, "validation": 50},
    "slices": {"points": 5, "volume": 0},
    "evaluation": {"every": 2},
    "verify": False,
}


def solved(path, steps: int = 6, **options) -> Run:
    return train(Poisson(2), out=path, steps=steps, **SMALL | options)


def rows(run: Run) -> dict[str, dict[int, float]]:
    """The numbers of the history by column and step, without those that are not known."""
    steps = [int(step) for step in run.history["step"]]
    columns = {name: dict(zip(steps, column, strict=True)) for name, column in run.history.items() if name != "step"}
    return {n: {s: v for s, v in c.items() if v == v} for n, c in columns.items() if any(v == v for v in c.values())}


@pytest.fixture
def noted(monkeypatch):
    """A logger that keeps what it is told, under the name tensorboard; it fails in the calls named in its option."""
    told = []

    class Noted(Logger):
        package = "sys"

        def __init__(self, fails: list[str] | None = None):
            self.fails = fails or []

        def _note(self, call, *given):
            told.append((call, *given))
            if call in self.fails:
                raise OSError("the disk\nis full")

        def begin(self, run):
            self._note("begin", len(run.history.get("step", ())))

        def row(self, step, row):
            self._note("row", step, dict(row))

        def end(self, run):
            self._note("end", run.attrs["status"])

    monkeypatch.setitem(loggers.LOGGERS, "noted", Noted)
    return told


def test_a_logger_gets_the_rows_of_the_file_and_the_run_is_the_same_bit_for_bit(tmp_path, noted):
    plain, seen = solved(tmp_path / "plain.h5"), []
    run = solved(tmp_path / "logged.h5", log="noted", on_evaluation=lambda state: seen.append(state.step))
    assert [call for call, *_ in noted] == ["begin", *["row"] * 4, "end"] and noted[-1] == ("end", "finished")
    told = {step: row for call, step, *row in noted if call == "row" for row in row}
    assert list(told) == seen == [0, 2, 4, 6]
    for i, row in enumerate(told.values()):
        assert set(row) <= set(run.history)
        np.testing.assert_array_equal([run.history[name][i] for name in row], list(row.values()))
    for name in plain.history:
        if not name.startswith(OF_THE_MACHINE):
            np.testing.assert_array_equal(plain.history[name], run.history[name])
    assert config_of(run).log == {"noted": {}}


@pytest.mark.parametrize("call", ["begin", "row", "end"])
def test_a_logger_that_fails_is_one_warning_and_the_run_goes_on(tmp_path, noted, call):
    with pytest.warns(UserWarning, match=r"^log: noted ends here, and the run goes on \(OSError: the disk\)$") as said:
        run = solved(tmp_path / "x.h5", log={"noted": {"fails": [call]}})
    assert len([each for each in said if "log:" in str(each.message)]) == 1
    assert run.attrs["status"] == "finished" and len(run.history["step"]) == 4
    assert [name for name, *_ in noted].count(call) == 1


def test_a_callback_beside_a_logger_still_ends_a_run(tmp_path, noted):
    run = solved(tmp_path / "x.h5", log=["noted"], on_evaluation=lambda state: state.step == 2)
    assert list(run.history["step"]) == [0, 2] and noted[-1] == ("end", "finished")


def test_a_resumed_run_logs_on_and_may_log_elsewhere(tmp_path, noted, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run = solved(tmp_path / "x.h5", log="noted")
    assert noted[-1] == ("end", "interrupted")
    resume(run.path)
    begun = [given for call, given, *_ in noted if call == "begin"]
    assert begun == [0, len([1 for step in (0, 2)])] and noted[-1] == ("end", "finished")
    assert [given[0] for call, *given in noted if call == "row"] == [0, 2, 4, 6]


def test_what_a_run_logs_is_no_part_of_what_it_is(tmp_path, capsys, noted, no_pictures):
    path, options = (
        tmp_path / "x.h5",
        ["--set", "points.test=200", "--set", "slices.volume=0", "--no-verify", "--quiet"],
    )
    given = ["solve", "poisson", "--dim", "2", "--backbone", "mlp", *options]
    assert call(capsys, *given, "--steps", "2", "--out", path)[0] == 0 and not noted
    assert call(capsys, "solve", "--resume", path, "--steps", "4", "--log", "noted", "--quiet")[0] == 0
    assert noted[-1] == ("end", "finished")
    noted.clear()
    assert rerun(path).rows and not noted


def test_an_unknown_logger_an_option_and_a_package_that_is_missing_are_one_line(tmp_path, monkeypatch):
    for log, said in (
        ("tensorbord", "did you mean tensorboard"),
        ({"wandb": {"mode": "on"}}, "'offline' or 'online'"),
        ({"mlflow": {"url": "x"}}, "unknown option of log mlflow 'url'"),
        (3, "log: given 3"),
    ):
        with pytest.raises(ConfigError, match=said) as info:
            solved(tmp_path / "x.h5", log=log)
        one_line(info)
    monkeypatch.setattr(loggers.TensorBoard, "package", "no_such_package")
    with pytest.raises(ConfigError, match=r"tensorboard needs the package no_such_package: pip install 'kanpde\["):
        solved(tmp_path / "x.h5", log="tensorboard")
    assert not list(tmp_path.iterdir())


def test_names_lists_and_mappings_are_the_same_key(tmp_path):
    for log in ("wandb", ["wandb"], {"wandb": None}, {"wandb": {}}):
        assert load("poisson", overrides={"log": log}).log == {"wandb": {}}
    problem = tmp_path / "p.yaml"
    problem.write_text(
        yaml.safe_dump({"problem": {"name": "poisson", "dim": 2}, "log": {"wandb": {"project": "mine"}}})
    )
    assert load(problem, overrides={"log": {"wandb": {}, "mlflow": {}}}).log == {
        "wandb": {"project": "mine"},
        "mlflow": {},
    }


def test_flat_names_every_leaf():
    assert flat({"a": {"b": 1, "c": {}}, "p": [{"x": 2}, {"x": 3}], "l": [1, 2]}) == {
        "a.b": 1,
        "a.c": {},
        "p.0.x": 2,
        "p.1.x": 3,
        "l": [1, 2],
    }


def test_tensorboard_reads_back_the_history(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run = solved(tmp_path / "x.h5", log="tensorboard")
    resume(run.path)
    run, found = Run.open(run.path), EventAccumulator(str(tmp_path / "x-tensorboard"))
    found.Reload()
    for name, column in rows(run).items():
        events = {event.step: event.value for event in found.Scalars(name)}
        assert events == {step: pytest.approx(value, rel=1e-6) for step, value in column.items()}, name
    (end,) = found.Scalars("end/rel_l2_best")[-1:]
    assert end.value == pytest.approx(run.attrs["rel_l2_best"], rel=1e-6)
    words = found.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert run.attrs["id"] in words and "name: poisson" in words


def test_mlflow_reads_back_the_history_of_one_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run = solved(tmp_path / "x.h5", log="mlflow")
    resume(run.path)
    run, client = Run.open(run.path), MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("kanpde").experiment_id])
    assert found.info.run_name == "x" and found.info.status == "FINISHED"
    assert found.data.tags["kanpde.id"] == run.attrs["id"] and found.data.params["backbone.name"] == "mlp"
    for name, column in rows(run).items():
        events = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, name)}
        assert events == {step: pytest.approx(value) for step, value in column.items()}, name


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    run = solved(tmp_path / "x.h5", log={"wandb": {"project": "mine"}})
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    (file,) = folder.glob(f"run-{run.attrs['id']}.wandb")
    written = file.read_bytes()
    for name in ("loss", "rel_l2", "held_out/interior", "rel_l2_best"):
        assert name.encode() in written, name
    assert f"{run.history['rel_l2'][-1]:.12g}".encode()[:12] in written


def test_the_loggers_of_a_run_import_nothing_before_they_begin():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for logger in loggers.LOGGERS.values():
            assert logger().package in ("tensorboard", "wandb", "mlflow")
