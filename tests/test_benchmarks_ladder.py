"""The benchmark of the start in closed form: a table of short runs, which are not run again."""

from benchmarks.accuracy import ladder


def test_quick_run_and_the_same_again(tmp_path):
    out = tmp_path / "results" / "ladder.md"
    call = ["--quick", "--dims", "5", "--problems", "poisson", "heat", "--runs", str(tmp_path), "--out", str(out)]
    ladder.main(call)
    text, runs = out.read_text(), sorted(tmp_path.glob("*.h5"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert len(runs) == 2 and [row[0] for row in rows[2:]] == ["poisson", "heat"]
    found = dict(zip(ladder.HEADING, rows[2], strict=True))
    assert float(found["start"]) < float(found["additive"]) < float(found["constant"]) < 1
    before = [path.stat().st_mtime_ns for path in runs]
    ladder.main(call)
    assert [path.stat().st_mtime_ns for path in runs] == before and out.read_text() == text
