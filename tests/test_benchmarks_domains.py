"""The benchmark of domains: what it measures, that it sees what is wrong, and its table."""

from math import pi

import pytest

from benchmarks.accuracy import domains
from kanpde.domains import Ball
from kanpde.ground.errors import ConfigError

CENTRE = (0.0, 0.0)


def test_measures_are_within_their_errors_and_others_are_not():
    assert max(domains.deviations(Ball(2), pi, 2 * pi, CENTRE, 4000)) < 4
    volume, area, centroid, divergence = domains.deviations(Ball(2), 3.0, 2 * pi, CENTRE, 4000)
    assert min(volume, area) > 4 and divergence < 4 and centroid < 4
    assert domains.deviations(Ball(2), pi, 2 * pi, (0.1, 0.0), 4000)[2] > 4

    class Inwards(Ball):
        def normal(self, x):
            return -super().normal(x)

    class Radial(Ball):
        def interior(self, n, generator, law, sequence="random", **kind):
            return super().interior(n, generator, "radial", sequence, **kind)

    assert min(domains.deviations(Inwards(2), pi, 2 * pi, CENTRE, 4000)[k] for k in (1, 3)) > 4
    assert domains.deviations(Radial(2), pi, 2 * pi, CENTRE, 40_000)[3] > 4


def test_insides_are_those_of_others():
    pytest.importorskip("pyvista")
    rows = domains.against_vtk(300)
    assert len(rows) == len(domains.meshes()) and not any(row[-1] for row in rows) and all(row[2] > 20 for row in rows)
    pytest.importorskip("shapely")
    assert not any(row[-1] for row in domains.against_shapely(300))


@pytest.mark.slow
def test_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(domains, "alone", lambda work, task, threads: work(task))
    monkeypatch.setattr(domains, "measured", lambda n: [["Ball", "0.0", "1.5", "0.3", "2.5"]])
    monkeypatch.setattr(domains, "against_vtk", lambda n: [["Surface, Cube", "VTK", 3, 0]])
    domains.main(["--quick", "--out", str(tmp_path / "domains.md")])
    text = (tmp_path / "domains.md").read_text()
    assert text in capsys.readouterr().out and "the largest is 2.5, allowed are 4" in text
    assert all(f"\n| {name} | " in text for name in ("Ball", "Box", "Gaussian", "Simplex", "Ellipsoid"))


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="--points must be at least 100, given 3"):
        domains.main(["--points", "3"])
