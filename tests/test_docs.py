"""The blocks of the documents that say that they are run."""

import re
from pathlib import Path

import pytest
import torch

import kanpde
from kanpde.training import verifying

ROOT = Path(kanpde.__file__).parents[1]
PAGES = ("problems",)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys, no_pictures):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verifying, "FEWEST", float("inf"))  # no verification of runs, most of their time
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    names = {"__name__": f"docs_{page}"}
    for block in blocks:
        exec(compile(block, f"docs/{page}.md", "exec"), names)
    said = capsys.readouterr().out
    assert "['u.xxxx', 'u.xxyy', 'u.yyyy'] 2" in said and "lift on the initial" in said
    (error,) = (float(line) for line in said.splitlines() if re.fullmatch(r"[\d.e+-]+", line))
    a0, a1 = map(float, re.search(r"^([\d.]+) ([\d.]+) \{", said, re.MULTILINE).groups())
    assert error < 1e-3 and (a0, a1) == (pytest.approx(2, rel=0.05), pytest.approx(3, rel=0.1))
    reference, of_file = re.search(r"^(rod.npz, .*) error ([\d.e-]+)$", said, re.MULTILINE).groups()
    assert reference == "rod.npz, 2,665 points; errors at all 2,665" and float(of_file) < 0.05
    assert "['dirichlet', 'initial', 'initial_2'] ['initial', 'periodic']" in said
    assert "tensor([False,  True]) 3.2 ['dirichlet', 'dirichlet_2']" in said
    assert "4.15 tensor([True]) []" in said and "['initial'] tensor([True]) torch.Size([2, 3])" in said
    value = names["u"](torch.zeros(1, 2, dtype=torch.float64)).item()
    assert abs(value) < 0.1  # u of Burgers' equation is odd in x


def test_every_block_of_the_page_on_formulas_runs(tmp_path, monkeypatch, capsys, no_pictures):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verifying, "FEWEST", float("inf"))
    page = (ROOT / "docs/formula.md").read_text()
    names = {"__name__": "docs_formula"}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/formula.md", "exec"), names)
    found, exact, bounded, wrong = capsys.readouterr().out.splitlines()[-4:]
    assert found == "exp(-pi**2*t/10)*sin(pi*x) | exact" and exact == "exact"
    assert bounded.split("(")[0] in page and wrong.split(" at x")[0] in page
