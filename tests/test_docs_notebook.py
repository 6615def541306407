"""The notebook of the documents: run anew, cell by cell, and compared with what is committed."""

import os
import re
from pathlib import Path

import pytest

import kanpde

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e '.[docs]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[docs]'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[docs]'")
ROOT = Path(kanpde.__file__).parents[1]
NOTEBOOK = ROOT / "docs/notebook.ipynb"
SIZE = 300_000  # bytes that the repository has room for
PATH = re.compile(r"(?<![\w:/.<])/(?:home|root|tmp|usr|work|Users|opt|var)/")


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell) -> list[str]:
    """What the outputs of a cell say."""
    return [str(said) for out in cell.outputs for said in (out.get("text", ""), *out.get("data", {}).values())]


def kinds(cell) -> set[tuple]:
    """Of outputs, of results with their formats: progress is text, or a widget where ipywidgets is installed."""
    formats = lambda out: sorted(out.data) if out.output_type == "execute_result" else ()
    return {(out.output_type, out.get("name"), *formats(out)) for out in cell.outputs}


@pytest.fixture
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_what_is_committed_is_small_whole_and_of_no_machine(committed):
    nbformat.validate(committed)
    assert NOTEBOOK.stat().st_size < SIZE and "widget" not in NOTEBOOK.read_text()  # whose scripts come from elsewhere
    assert [cell.execution_count for cell in code(committed)] == [*range(1, len(code(committed)) + 1)]
    for cell in code(committed):
        assert "execution" not in cell.metadata
        for text in texts(cell):
            assert "Traceback" not in text and not PATH.search(text), cell.source


def test_every_cell_runs_and_shows_what_it_showed(committed, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    before = [kinds(cell) for cell in code(committed)]
    client = nbclient.NotebookClient(
        committed, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # a cell that raises ends it
    for cell, shown in zip(code(committed), before, strict=True):
        assert kinds(cell) == shown, cell.source
    said = "".join(text for cell in code(committed) for text in texts(cell))
    assert not any(word in said for word in ("Traceback", str(ROOT), str(tmp_path)))
    assert len(list(tmp_path.glob("runs/*.h5"))) == 2
    first, second = map(float, re.findall(r"parameters: \S+ \(\S+ to (\S+) with 95% confidence\)", said))
    assert first < 1e-6 and first < second / 10  # upper ends: of the KAN, and of the network of tanh units
