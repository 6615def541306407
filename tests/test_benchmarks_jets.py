"""The benchmark of derivatives by name: both tables, and that its sides agree."""

import pytest

from benchmarks.speed import jets


def test_quick_run(tmp_path, capsys):
    jets.main(["--quick", "--out", str(tmp_path / "jets.md")])
    text = (tmp_path / "jets.md").read_text()
    assert capsys.readouterr().out == text
    exact = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| fourierkan")]
    assert len(exact) == len(jets.ORDERS) and all(float(cell) < 1e-10 for row in exact for cell in row[2:])
    assert sum(line.startswith("| mlp") for line in text.splitlines()) == len(jets.READS) + len(jets.NESTED)


def test_a_wrong_derivative_is_seen(monkeypatch):
    original = jets.nested
    monkeypatch.setattr(jets, "nested", lambda *args: {k: 1.001 * t for k, t in original(*args).items()})
    assert jets.differences("fourierkan", 2, 3) == pytest.approx(2e-3, rel=0.1)  # of mean squares
