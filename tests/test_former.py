"""Results of former versions open, are gone on with, and find what their users' files import.

The files in `former` were written before the modules of kanpde had folders: a PDE of a user's file, a PDE that starts
from a constant, and a fit whose grids were refined and whose weights were averaged.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import kanpde
from kanpde import Run

FORMER = Path(__file__).parent / "former"


@pytest.mark.parametrize("name", ["own", "constant", "fit"])
def test_the_model_is_the_one_that_was_trained(name):
    """Its values are those of the field at the test points, and its error is the one of the file."""
    run = Run.open(FORMER / f"{name}.h5")
    u, x = run.load_model(trust=True), torch.as_tensor(run.field["x"])
    with torch.no_grad():
        np.testing.assert_allclose(u(x.to(u.like)), run.field["u"], rtol=1e-4, atol=1e-5)
    exact = run.field["u_exact"]
    error = np.linalg.norm(run.field["u"] - exact) / np.linalg.norm(exact)
    assert run.rel_l2 == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize(
    "name, losses",
    [("constant", [np.nan, 205.59981, 130.71532, 197.82388]), ("fit", [np.nan, 0.94176414, 0.072645963, 0.0015486348])],
)
def test_a_run_goes_on_as_it_would_have(name, losses, tmp_path):
    for suffix in (".h5", ".pt"):
        shutil.copy(FORMER / f"{name}{suffix}", tmp_path)
    run = kanpde.resume(tmp_path / f"{name}.h5", steps=6)
    assert run.attrs["status"] == "finished" and run.attrs["steps"] == 6
    np.testing.assert_allclose(run.history["loss"], losses, rtol=1e-3)


def test_the_file_of_a_user_finds_what_it_imports():
    """kanpde.ansatz, kanpde.jet and kanpde.samplers, which lie elsewhere now, are the same objects."""
    problem = Run.open(FORMER / "own.h5").load_model(trust=True).problem
    assert (type(problem).__name__, problem.speed) == ("Cooling", 0.5)
    from kanpde.ansatz import Field
    from kanpde.jet import Jet

    assert Field is kanpde.Field and Jet is kanpde.Jet


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'kanpde\.nothing'"):
        import kanpde.nothing  # noqa: F401
