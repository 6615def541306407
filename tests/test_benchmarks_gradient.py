"""The benchmark of steps with the gradient of the residual."""

import pytest

from benchmarks.speed import gradient
from kanpde.ground.errors import ConfigError
from kanpde.operators import Forward
from kanpde.training import losses


def in_place_of_the_compiler(monkeypatch, factor=1.0):
    def computed(u, operator, x):
        residual = lambda x: u.problem.equations(Forward()(u, x), x)
        found, (slope,) = losses._with_gradients(residual, x, ("interior",), graph=True)
        return factor * found["interior"], factor * slope

    monkeypatch.setattr(losses, "_compiled_with_gradient", computed)


def test_table_has_all_sides(tmp_path, monkeypatch, capsys):
    in_place_of_the_compiler(monkeypatch)
    gradient.main(["--quick", "--out", str(tmp_path / "gradient.md")])
    text = (tmp_path / "gradient.md").read_text()
    assert text == capsys.readouterr().out
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| mlp")]
    assert [row[3] for row in rows] == ["plain", "gradient", "gradient, compiled"]
    assert float(rows[1][6]) > float(rows[0][6]) > 0  # more is saved for a second backward pass


def test_sides_that_differ_are_an_error(monkeypatch):
    in_place_of_the_compiler(monkeypatch, factor=2.0)
    with pytest.raises(AssertionError, match="gradient, compiled"):
        gradient.main(["--quick"])


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="--repeats must be at least 1"):
        gradient.main(["--repeats", "0"])
