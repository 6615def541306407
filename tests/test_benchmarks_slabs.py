"""benchmarks.slabs compares slabs of time with one network for all times."""

import csv

from conftest import jobs_here

from benchmarks.accuracy import slabs
from benchmarks.common import study


def test_a_line_for_each_number_of_slabs(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "table.md"
    slabs.main(["--quick", "--slabs", "1", "2", "--weight", "10", "--out", str(out)])
    one, two = csv.DictReader((tmp_path / "table.csv").open())
    assert (one["slabs"], two["slabs"]) == ("1", "2") and one["steps"] == two["steps"] == "4"
    assert int(two["parameters"]) == 2 * int(one["parameters"]) and one["error"] != two["error"]
    assert one["jump"] == "nan" and 0 < float(two["jump"]) < 10 and 0 < float(two["worst"]) < 10
    lines = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| `kdv`")]
    assert [line[3:5] for line in lines] == [["1", "file"], ["2", "10"]] and {len(line) for line in lines} == {
        len(slabs.HEADING)
    }
    assert lines[0][-2] == "-" and lines[1][-2] == f"{float(two['jump']):.3g}"
