"""kanpde doctor says what is wrong with an installation."""

from importlib import metadata

import pytest
from conftest import call

from kanpde import doctor


def test_here_all_is_well(capsys):
    code, out, err = call(capsys, "doctor")
    assert code == 0 and not err and " wrong " not in out
    assert all(word in out for word in ("kanpde", "torch", "threads", "derivatives", "a Poisson equation to"))


@pytest.fixture
def changed(monkeypatch):
    """Let packages have other versions; None: not installed."""

    def change(**versions):
        real = metadata.version

        def version(name):
            if versions.get(name, "") is None:
                raise metadata.PackageNotFoundError(name)
            return versions.get(name) or real(name)

        monkeypatch.setattr(doctor.metadata, "version", version)
        monkeypatch.setattr(doctor, "CHECKS", {})

    return change


def test_what_is_missing_or_too_old_is_said(changed, capsys):
    changed(torch="2.5.1", numpy=None, meshio=None)
    lines = {line.name: line for line in doctor.versions()}
    assert lines["torch"].state == "wrong" and lines["torch"].says.startswith("2.5.1, needed is ")
    assert lines["numpy"].state == "wrong" and lines["numpy"].says == "not installed, needed is >=1.26"
    assert (lines["meshio"].state, lines["meshio"].says) == ("note", "not installed: pip install 'kanpde[mesh]'")
    assert "pytest" not in lines
    assert call(capsys, "doctor")[0] == 1


def test_a_version_for_another_device_is_one_too(changed):
    changed(torch="2.13.0+cpu")
    assert {line.name: line.state for line in doctor.versions()}["torch"] == "ok"


def test_a_check_that_fails_is_a_line(changed, monkeypatch, capsys):
    def broken():
        raise OSError("no\nspace")

    changed()
    monkeypatch.setattr(doctor, "CHECKS", {"a run": broken, "a picture": lambda: "drawn"})
    first, second = doctor.checks()
    assert (first.state, first.says) == ("wrong", "OSError: no space") and second.says.startswith("drawn, 0.")
    code, out, _ = call(capsys, "doctor")
    assert code == 1 and "no space" in out


def test_a_run_that_does_not_find_its_solution_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "EXACT", 0.0)
    assert doctor._checked("a run", doctor._run).says.startswith("ArithmeticError: an error of ")
