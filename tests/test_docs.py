"""The documents: every block of Python runs, commands are ones that there are, and what is referred to exists."""

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from inspect import isclass
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
import torch
import typer
import yaml
from conftest import call

import benchmarks
import kanpde
from kanpde import cli, problems
from kanpde.config import RunConfig
from kanpde.config.reading import parse
from kanpde.export import export
from kanpde.training import verifying

ROOT = Path(kanpde.__file__).parents[1]
DOCS = ROOT / "docs"
POINTS = {"interior": 20, "test": 200, "validation": 50}
SMALL = {"backbone": "kan", "steps": 2, "points": POINTS, "slices": {"points": 5, "volume": 5}}
SHORT = ("--steps", "2", "--set", "points.test=200", "--set", "points.interior=60", "--set", "slices.points=9")
WHOLE = ("images", "index", "jet", "extending", "low_dim", "high_dim", "problems")  # every block, one after the other
ELSEWHERE = ("report", "adapters", "formula")  # tests/test_run_report.py, and by tests of their own
PRESUMING = ("backbones", "results", "verification", "fitting", "export")  # what a reader has by then
PEERS = {"deepxde": "deepxde", "pina": "pina", "kan": "pykan", "jinns": "jinns"}  # modules of other packages


def blocks(page: str, language: str = "python", of: str | None = None) -> list[str]:
    """Those of a page, or of a section of it."""
    text = (DOCS / f"{page}.md").read_text()
    if of is not None:
        text = text.partition(f"\n## {of}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_all(page: str, texts: list[str], **names) -> dict:
    names = {"__name__": f"docs_{page}"} | names
    for text in texts:
        exec(compile(text, f"docs/{page}.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, no_pictures):
    """In a folder of its own, without what takes most of the time, and with the tables as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verifying, "FEWEST", float("inf"))  # no verification of runs
    tables = (kanpde.backbones.BACKBONES, kanpde.backbones.FAMILIES, kanpde.operators.OPERATORS)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


SECTIONS = {  # of docs/adapters.md: what is imported, and what the blocks print
    "torch": (None, r"torch.Size\(\[100, 1\]\) torch.Size\(\[100, 1\]\)"),
    "DeepXDE": ("deepxde", r"DeepXDE \[.*\]\ntensor\(True\) True torch.Size\(\[1000, 2\]\)"),
    "PINA": ("pina", r"PINA ([\d.]+)"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("section", SECTIONS)
def test_every_block_on_the_adapters_runs(section, monkeypatch, capsys):
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    package, says = SECTIONS[section]
    if package:
        pytest.importorskip(package, reason=f"{package} is not installed")
    texts = blocks("adapters", of=section)
    with torch.random.fork_rng():
        run_all("adapters", texts)
    assert texts and re.search(says, capsys.readouterr().out)


def test_every_block_of_the_statements_runs(capsys):
    names = run_all("problems", blocks("problems"))
    said = capsys.readouterr().out
    assert "['u.bilap'] 2" in said and "lift on the initial" in said
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


def test_every_block_of_the_page_on_formulas_runs(capsys):
    run_all("formula", blocks("formula"))
    page = (DOCS / "formula.md").read_text()
    found, exact, bounded, wrong = capsys.readouterr().out.splitlines()[-4:]
    assert found == "exp(-pi**2*t/10)*sin(pi*x) | exact" and exact == "exact"
    assert bounded.split("(")[0] in page and wrong.split(" at x")[0] in page


@pytest.mark.parametrize("page", [page for page in WHOLE if page not in ("index", "problems")])
def test_every_block_of_a_page_runs(page):
    run_all(page, blocks(page))


def test_the_equation_of_the_first_page_is_solved():
    (text,) = blocks("index")
    found = run_all("index", [text.replace("steps=50", "steps=10")], __name__="__main__")["run"].verification
    assert found["low"] < found["rel_l2"] < found["high"]


def test_the_start_runs_from_the_file_to_paraview(capsys):
    source, values = blocks("start")
    Path("plate.py").write_text(source)
    Path("plate.yaml").write_text(blocks("start", "yaml")[0])
    lines = [line for text in blocks("start", "sh") for line in text.splitlines()]
    assert [line.split()[1] for line in lines] == ["solve", "solve", "verify", "report", "plot"]
    more = {"solve": SHORT, "verify": ("--seconds", "1", "--rel", "3")}
    for _, command, *words in map(str.split, lines):
        code, _, err = call(capsys, command, *words, *more.get(command, ()))
        assert code == 0, err
    for name in ("plate-report.html", "plate-domain.vtu"):
        assert Path(name).is_file(), name
    u = run_all("start", [values])["u"]
    assert u(torch.tensor([[-1.0, 0.3], [0.7, 0.2]])).abs().max() < 1e-6  # at an edge of the square and of the hole


@pytest.mark.parametrize("page", [*PRESUMING, "../README"])
def test_a_block_may_presume_what_was_said_before(page):
    generator = torch.Generator().manual_seed(0)
    given = {"generator": generator, "x": torch.rand(5, 3, generator=generator) / 2}
    if page == "backbones":
        net = kanpde.backbones.build("kan", 3, widths=[4], generator=generator)
        given |= {"net": net, "optimizer": torch.optim.Adam(net.parameters())}
        given |= {"Hermite": run_all("members", [(ROOT / "examples/my_members.py").read_text()])["Hermite"]}
    elif page == "export":
        run = kanpde.train(problems.Poisson(3), out="run.h5", **SMALL | {"backbone": {"name": "kan", "widths": [2]}})
        export(run, "u.pt2", "torch")
    elif page == "fitting":
        square = problems.Function(formula="a**2", ranges={"a": (-1, 1)})
        kanpde.train(square, out="small.h5", solver="fit", backbone={"name": "kan", "widths": [1]}, steps=5)
    else:
        name = "run.h5" if page == "verification" else "runs/allen_cahn-100d-metakan-seed0.h5"
        kanpde.train(problems.Poisson(3) if page == "verification" else problems.Heat(4), out=name, **SMALL)
    for text in blocks(page):  # README's first is a file of its own, which trains as a program alone
        run_all(page, [text.replace("steps=300", "steps=2")], **given)


@pytest.mark.parametrize("package", ["kanpde", *(pytest.param(name, marks=pytest.mark.slow) for name in PEERS)])
def test_scripts_of_other_packages_run_beside_ours(package):
    """Theirs in processes of their own, as they set numbers of threads, types and seeds of all of torch."""
    texts = [re.sub(r"\b2000\b", "3", text) for text in blocks("coming_from")]
    theirs = {name: [t for t in texts if re.search(rf"^(?:import|from) {name}\b", t, re.M)] for name in PEERS}
    if package == "kanpde":
        assert all(len(found) == 1 for found in theirs.values())
        run = run_all("coming_from", [t for t in texts if [t] not in theirs.values()])["run"]
        assert run.attrs["status"] == "finished"
        return
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{PEERS[package]} is not installed")
    environment = {**os.environ, "DDE_BACKEND": "pytorch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", theirs[package][0]], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"[\d.]+", done.stdout)[-1]) > 0


def test_every_page_with_python_is_run():
    pages = {path.stem for path in DOCS.glob("*.md") if blocks(path.stem)}
    assert pages == {*WHOLE, *ELSEWHERE, *PRESUMING, "start", "coming_from"}


SPOKEN = r"(?:kanpde\s+\w+|python -m kanpde\.solve|torchrun [^`]+kanpde\.solve)\s[^`]+"  # within the prose, with words
SHELL = re.compile(rf"^```(?P<language>\w*)\n(?P<block>.*?)^```|`(?P<spoken>{SPOKEN})`", re.DOTALL | re.MULTILINE)


def shell(text: str) -> list[str]:
    """The command lines of a page in their order, of blocks of a shell and of the prose, without prompts and comments.

    A backslash and open quotes go on, && begins another.
    """
    found = []
    for part in SHELL.finditer(text):
        if part["spoken"]:
            found.append(" ".join(part["spoken"].split()))
        elif part["language"] in ("sh", "console"):
            found += _joined(part["block"].replace("\\\n", " ").splitlines())
    return [command.strip().removeprefix("$ ") for line in found for command in line.split(" && ")]


def commands(text: str) -> list[list[str]]:
    """The words of the commands `kanpde ...` of a page."""
    split = [shlex.split(line) for line in shell(text)]
    return [words[1:] for words in split if words[0] == "kanpde"]


def _joined(lines: list[str]) -> list[str]:
    """Lines within quotes are one; without comments."""
    found, open_ = [], ""
    for line in lines:
        open_ = f"{open_} {line}".split(" #")[0].strip()
        if open_.count('"') % 2 == 0:
            found.append(open_)
            open_ = ""
    return found


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))])
def test_commands_and_options_are_ones_that_there_are(page):
    made = typer.main.get_command(cli.app)
    for command, *words in commands((ROOT / page).read_text()):
        assert command in made.commands, command
        options = {name for p in made.commands[command].params for name in (*p.opts, *p.secondary_opts)}
        for word in words:
            assert not word.startswith("--") or word.split("=")[0] in options, f"kanpde {command} {word}"


def test_blocks_of_yaml_are_read():
    for path in DOCS.glob("*.md"):
        for text in blocks(path.stem, "yaml"):
            values = parse(text, path.name)
            unknown = set(values) - {*RunConfig.model_fields, "solver", "sweep", "backbones"}
            assert not unknown, f"{path.name}: {unknown}"


def test_benchmarks_that_are_named_are_there():
    rooms = {path.stem for room in benchmarks.ROOMS for path in (ROOT / "benchmarks" / room).glob("*.py")}
    for path in [ROOT / "README.md", *DOCS.glob("*.md")]:
        named = set(re.findall(r"python -m benchmarks\.([a-z_\d]+)\b", path.read_text()))
        assert named <= {*rooms, "images"}, f"{path.name}: {named - rooms}"


def test_every_demand_names_tests_that_there_are():
    text = (DOCS / "demands.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*?\| (yes|in part|not met) \|.*\|(.*)\|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == [*range(1, 21)]
    for _, _, tested in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tested)
        assert named
        for file, name in named:
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), name
    met = [met for _, met, _ in rows]
    assert f"Met are {met.count('yes')}, in part {met.count('in part')};" in text and "not met" not in met


def of_navigation(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [name for part in (entry.values() if isinstance(entry, dict) else entry) for name in of_navigation(part)]


def test_every_page_is_in_the_navigation():
    named = of_navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = [name for name in named if not name.startswith("api/")]
    assert sorted(pages) == sorted(path.name for kind in ("*.md", "*.ipynb") for path in DOCS.glob(kind))


def reference() -> list[str]:
    """The modules of the reference."""
    named = of_navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    return [name.removeprefix("api/").removesuffix(".md") for name in named if name.startswith("api/")]


def public(module: ModuleType) -> list[type]:
    """The classes that a module offers, without `__all__` those that it defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return [getattr(module, name) for name in names if isclass(getattr(module, name))]


def test_every_public_class_has_a_doctest():
    """In its own docstring or in that of one of its members; pytest runs them."""
    classes = {found for name in reference() for found in public(importlib.import_module(name))}
    assert len(classes) > 100
    for found in classes:
        members = [
            m for m in vars(found).values() if isinstance(m, FunctionType | property | classmethod | staticmethod)
        ]
        said = [thing.__doc__ or "" for thing in (found, *members)]
        assert any(">>>" in text for text in said), f"{found.__module__}.{found.__name__}"


def test_every_room_with_public_names_is_in_the_reference():
    rooms = {
        ".".join(path.relative_to(ROOT).parent.parts)
        for path in (ROOT / "kanpde").rglob("__init__.py")
        if "\n__all__ =" in path.read_text()
    }
    assert rooms <= set(reference())


def test_links_lead_to_files():
    """As a forge shows the pages: relative to the folder of the page."""
    for path in [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("*.ipynb")]:
        prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter", "latex2mathml"):
        if importlib.util.find_spec(package) is None:
            pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "--site-dir", str(tmp_path / "site")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/jet/index.html").read_text()
    assert "<math" in page and 'class="arithmatex"' not in page
    assert "kanpde.domains.Ball" in (tmp_path / "site/api/kanpde.domains/index.html").read_text()
    assert 'href="../benchmarks/results/operators/"' in page
    notebook = (tmp_path / "site/notebook/index.html").read_text()
    assert 'href="../results/#paraview"' in notebook and not re.search(r'href="[^"]*\.md["#]', notebook)
