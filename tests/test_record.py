"""The result file: round trip, and one line for files that are not one."""

import h5py
import numpy as np
import pytest

from kanpde import Run
from kanpde.ground import apart
from kanpde.records import RunFileError


def written(path):
    run = Run(path)
    run.attrs = {"config": "problem: {name: poisson}\n", "seed": 3, "status": "running"}
    run.floors = {"constant": 0.5}
    run.log({"step": 0, "rel_l2": 1.0})
    run.log({"step": 10, "rel_l2": 0.1, "terms/interior": 2.0})
    run.set_field({"u": np.arange(3.0)})
    run.set_slices({"random": {"axes": np.eye(2), "u": np.ones((2, 2)), "label": "a plane"}})
    run.save()
    return run


def test_round_trip(tmp_path):
    written(tmp_path / "r.h5")
    run = Run.open(tmp_path / "r.h5")
    assert run.attrs["schema_version"] == 1 and run.attrs["seed"] == 3
    assert run.config == {"problem": {"name": "poisson"}}
    assert run.floors == {"constant": 0.5}
    assert run.history["step"].tolist() == [0, 10]
    assert np.isnan(run.history["terms/interior"][0]) and run.history["terms/interior"][1] == 2
    assert run.rel_l2 == pytest.approx(0.1)
    assert run.field["u"].tolist() == [0, 1, 2]
    assert run.slices["random"]["u"].shape == (2, 2)


def test_opened_run_can_be_saved_again_with_its_field(tmp_path):
    written(tmp_path / "r.h5")
    run = Run.open(tmp_path / "r.h5")
    run.attrs["status"] = "finished"
    run.save()
    again = Run.open(tmp_path / "r.h5")
    assert again.attrs["status"] == "finished" and again.field["u"].tolist() == [0, 1, 2]


def test_failed_write_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch):
    run = written(tmp_path / "r.h5")
    before = (tmp_path / "r.h5").read_bytes()
    run.history["bad"] = [object()]  # cannot be written
    with pytest.raises((TypeError, ValueError)):
        run.save()
    assert (tmp_path / "r.h5").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5"]


def test_files_that_are_no_results_are_one_line(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    written(tmp_path / "cut.h5")
    data = (tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    with h5py.File(written(tmp_path / "new.h5").path, "a") as file:
        file.attrs["schema_version"] = 99
    for name, attribute, value in (("text_version", "schema_version", "1"), ("field", "status", "finished")):
        with h5py.File(written(tmp_path / f"{name}.h5").path, "a") as file:
            file.attrs[attribute] = value
    with h5py.File(tmp_path / "field.h5", "a") as file:
        del file["field"]
        file["field"] = 1.0
    with pytest.raises(RunFileError, match="damaged"):
        _ = Run.open(tmp_path / "field.h5").field
    for config in ("[", "- 1", 3):
        run = Run.open(tmp_path / "field.h5")
        run.attrs["config"] = config
        with pytest.raises(RunFileError, match="no configuration"):
            _ = run.config
    for name, says in {
        "text_version": "not a kanpde",
        "none": "no such",
        "text": "HDF5",
        "other": "not a kanpde",
        "cut": "HDF5",
        "new": "newer",
    }.items():
        with pytest.raises(RunFileError, match=says) as info:
            Run.open(tmp_path / f"{name}.h5")
        assert "\n" not in str(info.value)


def test_a_file_that_is_as_it_was_written_is_read_without_another_process(tmp_path, monkeypatch):
    path = written(tmp_path / "new.h5").path
    monkeypatch.setattr(apart, "survived", lambda *_, **__: pytest.fail("the checksum is right"))
    assert Run.open(path).history["step"].tolist() == [0, 10]


@pytest.mark.parametrize("read", ["import os; os.abort()", "import time; time.sleep(60)"])
def test_a_damaged_file_cannot_take_this_process_with_it(tmp_path, monkeypatch, read):
    """What crashes or blocks the HDF5 library does so elsewhere; what it reads is read here too."""
    path = written(tmp_path / "new.h5").path
    with h5py.File(path, "a") as file:
        file.attrs["note"] = "of another program"
    assert Run.open(path).attrs["note"] == "of another program"
    path.write_bytes(path.read_bytes() + b"more")
    monkeypatch.setattr(apart, "PATIENCE", 1)
    monkeypatch.setattr(apart, "READ", read)
    with pytest.raises(RunFileError, match="a damaged file") as info:
        Run.open(path)
    assert "\n" not in str(info.value)


def test_a_file_that_says_that_it_is_huge_is_not_read(tmp_path):
    path = written(tmp_path / "new.h5").path
    with h5py.File(path, "a") as file:
        file.create_dataset("field/huge", shape=(10**12,), dtype="f8")
    with pytest.raises(RunFileError, match="a damaged file"):
        Run.open(path)
