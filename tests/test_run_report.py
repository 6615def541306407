"""The page on a run: what it says, that it needs nothing beside it, and that what comes from a file is text."""

import json
import platform
import re
import shutil
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import call, one_line

import kanpde
from kanpde import Run, train
from kanpde.problems import Function, Poisson
from kanpde.records.live import is_held
from kanpde.records.lock import Lock
from kanpde.records.run import RunFile, RunFileError
from kanpde.records.sweep import Sweep
from kanpde.report import contents, live, pages, report, watch

SMALL = {"points": {"interior": 50, "test": 500}, "slices": {"points": 11, "volume": 5}}
HOSTILE = '<script>window.broken = 1</script>" onload="x'
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements, its words, and that all that is opened is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def read(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def solved(folder):
    config = {"steps": 20, "backbone": "metakan", **SMALL}
    run = train(Poisson(3), out=folder / "solved.h5", evaluation={"every": 10}, **config)
    kanpde.verify(run, points=50, seconds=None, rel=10.0)
    return run.path


@pytest.fixture(scope="module")
def fitted(folder):
    problem = Function(formula="x*y", ranges={"x": (0.0, 1.0), "y": (0.0, 1.0)})
    return train(problem, out=folder / "fitted.h5", backbone="kan", steps=5, slices={"points": 11}).path


@pytest.fixture
def bare(monkeypatch):
    """Pages without pictures, which take most of their time."""
    for name in ("main_figures", "other_figures"):
        monkeypatch.setattr(contents, name, lambda _: {})
    monkeypatch.setattr(contents, "_standing", lambda _: None)


@pytest.fixture(scope="module")
def page(solved):
    return read(report(solved))


def copied(path, to, **attrs) -> Run:
    """A copy of a run with other attributes."""
    run = Run.open(path)
    for name in ("field", "slices", "meshes", "verification"):
        getattr(run, name)
    for name in ("times", "points_of_interest", "residuals"):
        run.table(name)
    run.path = to
    run.attrs |= attrs
    run.save()
    return run


def test_a_page_says_what_was_solved_how_wrong_it_is_and_how_it_is_repeated(solved, page):
    run = Run.open(solved)
    found = run.verification
    for said in (
        "poisson, d = 3, metakan",
        "Lap u = g on the unit ball",
        "finished , step 20 of 20",
        f"{found['rel_l2']:.3e}, 95 % interval {found['low']:.2e} to {found['high']:.2e}",
        f"{run.rel_l2:.3e} on 500 test points",
        f"kanpde rerun {solved}",
        "@software{kanpde",
        "@inproceedings{metakan",
        run.attrs["id"],
    ):
        assert said in page.text, said
    assert [t["aria-label"] for t in page.of("div") if t.get("role") == "region" and "Floors" in t["aria-label"]]
    cells = re.findall(r"constant \d\.\d\de-\d\d ([\d.e-]+)", page.text)
    assert float(cells[0]) == pytest.approx(run.rel_l2 / run.floors["constant"], rel=1e-2)
    for rung in json.loads(run.attrs["start_rungs"]):
        assert f"{rung['validation']:.2e}" in page.text
    left = run.table("residuals")
    assert f"{left['rms'][0]:.2e}" in page.text and f"{left['rms_start'][0]:.2e}" in page.text
    for name, value in json.loads(run.attrs["sessions"])[0].items():
        assert name == "step" or str(value) in page.text, name


def test_a_page_is_one_file_without_any_address(page):
    for tag, attrs in page.tags:
        for name in ("src", "href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value[:80])
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy
    assert not [meta for meta in page.of("meta") if meta.get("http-equiv") == "refresh"]


def test_pictures_are_those_of_plot_with_words_beside_them(solved, page):
    names, images = Run.open(solved).plot(every=True), page.of("img")
    assert len(images) == len(names) + 1  # that of the floors
    assert all(image["src"].startswith("data:image/svg+xml,") and image["alt"] for image in images)
    assert {"convergence", "error", "radial", "quantiles"} <= set(names)


def test_tables_have_captions_and_headings_of_rows_and_columns(solved, page):
    text = solved.with_name("solved-report.html").read_text()
    assert text.count("<table") == text.count("<caption>") == text.count("<thead>") >= 4
    rows = re.findall(r"<tbody>(.*?)</tbody>", text, re.DOTALL)
    assert all(body.count("<tr>") == body.count('scope="row"') > 0 for body in rows)


def numbers(packed: dict) -> np.ndarray:
    """A binary array of plotly.js."""
    import base64

    found = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=f"<{packed['dtype']}")
    return found.reshape([int(n) for n in packed["shape"].split(",")]) if "shape" in packed else found


@pytest.mark.usefixtures("bare")
def test_the_view_has_the_numbers_of_the_file_on_a_skin_that_is_closed(solved):
    run = Run.open(solved)
    view = contents.contents(run).view
    assert [look["label"] for look in view["looks"]] == ["u", "u*", "|u - u*|"]
    mesh, trace = run.meshes["domain"], view["trace"]
    corners, faces = (np.stack([numbers(trace[k]) for k in keys], 1) for keys in ("xyz", "ijk"))
    of_file = {tuple(p): u for p, u in zip(np.float32(mesh["points"]), np.float32(mesh["u"]), strict=True)}
    shown = numbers(view["looks"][0]["trace"]["intensity"])
    assert all(of_file[tuple(p)] == u for p, u in zip(corners, shown, strict=True))
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(int), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all()  # no edge has a triangle on one side alone
    a, b, c = (corners[faces[:, k]].astype(float) for k in range(3))
    volume = (a * np.cross(b, c)).sum() / 6
    assert 0 < volume < 4 / 3 * np.pi  # all faces look outwards, and an octant is cut away


@pytest.mark.usefixtures("bare")
def test_the_view_of_a_plane_is_a_height(fitted):
    run = Run.open(fitted)
    view = contents.contents(run).view
    height, u = numbers(view["looks"][0]["trace"]["z"]), run.slices["random"]["u"]
    of_mesh = run.meshes.get("random", run.meshes.get("domain"))
    np.testing.assert_allclose(height, np.float32(u.T if of_mesh is None else of_mesh["u"]))


@pytest.mark.usefixtures("bare")
def test_without_plotly_the_page_says_what_is_missing(solved, monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "plotly_js", lambda: None)
    page = read(report(solved, tmp_path / "page.html"))
    assert "pip install 'kanpde[report]'" in page.text and not page.of("script") and not page.of("select")


def test_a_fit(fitted):
    page = read(report(fitted))
    assert "y = x*y" in page.text and "root mean square error" in page.text and "relative l2 error" in page.text
    assert not [h for h in page.of("img") if h["alt"].startswith("radial")]


def test_a_classifier(folder):
    run = RunFile(folder / "classes.h5")
    config = json.dumps({"dataset": "mnist", "model": "metakan", "recipe": {"epochs": 2}})
    run.attrs = {"kind": "classification", "status": "finished", "config": config, "dataset": "mnist"}
    run.attrs |= {"model": "metakan", "parameters": 1234, "test_accuracy": 91.25, "machine": "a machine"}
    for epoch in (1, 2):
        columns = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "wall_s")
        run.log({"epoch": epoch, **dict.fromkeys(columns, 1.0 + epoch)})
    run.save()
    page = read(report(run.path))
    assert "mnist, metakan" in page.text and "91.25 %" in page.text and "a machine" in page.text
    assert [image["alt"][:6] for image in page.of("img")] == ["epochs"]


@pytest.mark.usefixtures("bare")
def test_runs_that_have_not_ended_well_say_so(solved, folder):
    failed = copied(solved, folder / "failed.h5", status="failed", message="step 7: the loss is nan")
    page = read(report(failed.path))
    assert "step 7: the loss is nan" in page.text and f"kanpde solve --resume {failed.path}" in page.text
    assert [span for span in page.of("span") if span.get("class") == "state failed"]
    left = copied(solved, folder / "left.h5", status="running")
    assert "broken off: no process writes it any more" in read(report(left.path)).text


def test_what_a_file_says_is_text(solved, tmp_path):
    folder = tmp_path
    words = {"problem": HOSTILE, "title": HOSTILE, "backbone": HOSTILE, "message": HOSTILE, "verdict": HOSTILE}
    run = copied(solved, folder / "hostile <b>&.h5", status="failed", conditions=HOSTILE, **words)
    for mesh in run.meshes.values():
        mesh["label"] = HOSTILE
    run.save()
    for name, text in (("run", pages.page_of_run(run)), ("folder", pages.page_of_folder(folder))):
        page = Page(text)
        assert "window.broken" in page.text, name
        assert not [attrs for _, attrs in page.tags if "onload" in attrs]
        for script in re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL):
            assert "window.broken" not in script or "\\u003cscript" in script
    assert "<script>" not in run._repr_html_() and "&lt;script&gt;" in run._repr_html_()
    assert "<script>" not in run.plot()._repr_html_()


def test_a_folder_has_a_table_with_links_and_a_section_each(solved, fitted, folder, tmp_path):
    for path in (solved, fitted):
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    page = read(report(tmp_path))
    links = [a["href"] for a in page.of("a") if a["href"].startswith("#run-")]
    assert links == ["#run-1", "#run-2"] and {f"#{h['id']}" for h in page.of("h2") if "id" in h} >= set(links)
    assert "fitted" in page.text and "solved" in page.text and "broken.h5: not a readable HDF5 file" in page.text
    assert "2 runs" in page.text and not page.of("script")


def test_a_sweep_has_its_groups(solved, tmp_path):
    cells = {f"kan-seed{seed}": {"backbone": "kan", "seed": seed} for seed in (0, 1)}
    sweep = Sweep(tmp_path, {"problem": "poisson"}, {"backbone": ["kan"], "seed": [0, 1]}, cells)
    sweep.save()
    shutil.copy(solved, sweep.path("kan-seed0"))
    page = read(report(tmp_path))
    assert "Groups of the sweep" in page.text and "kan 1 of 2" in page.text
    assert [image["alt"][:5] for image in page.of("img")] == ["sweep", "conve"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"not HDF5 at all"), "not a readable HDF5 file"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, capsys, damage, said):
    path = tmp_path / "x.h5"
    path.touch()
    damage(path)
    code, out, err = call(capsys, "report", path)
    assert code == 2 and said in err and len(err.splitlines()) == 1 and not out
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("attrs", [{"start_rungs": "[{"}, {"sessions": "7"}, {"retreats": '[{"step": "x"}]'}])
def test_attributes_that_no_run_has_written_are_one_line(solved, tmp_path, attrs):
    run = copied(solved, tmp_path / "x.h5", **attrs)
    with pytest.raises(ValueError, match="damaged kanpde result") as info:
        report(run.path)
    one_line(info)
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("out", ["page.txt", "nowhere/page.html", "."])
def test_a_page_that_cannot_be_written_is_one_line(solved, tmp_path, capsys, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "report", solved, "--out", out)
    assert code == 2 and "--out" in err and len(err.splitlines()) == 1


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    code, _, err = call(capsys, "report", tmp_path)
    assert code == 2 and "without result files" in err and len(err.splitlines()) == 1


def test_who_writes_a_result_is_seen_without_its_lock(tmp_path):
    path = tmp_path / "x.h5"
    assert not is_held(path)
    with Lock(path).take() as lock:
        assert is_held(path)
        lock.path.write_text(f"process {2**22 + 1} on {platform.node()}")  # more than the kernel has
        assert not is_held(path)
        lock.path.write_text("process 1 on another machine")
        assert is_held(path)
    assert not is_held(path)


@pytest.mark.usefixtures("bare")
def test_a_page_follows_a_run_and_ends_with_it(tmp_path):
    path, seen, threads = tmp_path / "live.h5", [], []

    def tell(page):
        seen.append(page.read_text(encoding="utf-8"))

    def hold(state):
        """Goes on once the page has what this evaluation has left."""
        if not threads:
            threads.append(threading.Thread(target=watch, args=(path,), kwargs={"seconds": 0.02, "on_page": tell}))
            threads[0].start()
        while threads[0].is_alive() and not any(f"step {state.step} of 4" in text for text in seen):
            time.sleep(0.02)

    train(Poisson(3), out=path, backbone="mlp", steps=4, evaluation={"every": 2}, on_evaluation=hold, **SMALL)
    threads[0].join(100)
    assert not threads[0].is_alive() and len(seen) >= 3
    assert all('http-equiv="refresh"' in text for text in seen)
    first, last = Page(seen[0]), read(path.with_name("live-report.html"))
    assert "running , step 0 of 4" in first.text and first.of("progress") and not first.of("script")
    assert "finished , step 4 of 4" in last.text
    assert not [meta for meta in last.of("meta") if meta.get("http-equiv") == "refresh"]


def test_a_run_without_a_first_result_is_waited_for_as_long_as_it_is_there(tmp_path):
    path = tmp_path / "x.h5"
    assert not live.goes_on(path)
    with Lock(path).take():
        assert live.goes_on(path) and not live.goes_on(tmp_path)


@pytest.mark.usefixtures("bare")
def test_ctrl_c_leaves_a_page_that_does_not_reload(solved, tmp_path, capsys, monkeypatch):
    run = copied(solved, tmp_path / "x.h5", status="running")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", interrupted)
    with Lock(run.path).take():
        code, out, err = call(capsys, "report", run.path, "--watch")
    assert code == 130 and "interrupted; the page stays as it is" in out and not err
    assert "refresh" not in (tmp_path / "x-report.html").read_text().partition("<style>")[0]


@pytest.mark.usefixtures("bare")
def test_watching_a_run_that_has_ended_is_one_page(solved, tmp_path, capsys):
    path = shutil.copy(solved, tmp_path)
    code, out, _ = call(capsys, "report", path, "--watch")
    assert code == 0 and "after the end" in out and (tmp_path / "solved-report.html").is_file()
    code, _, err = call(capsys, "report", tmp_path / "none.h5", "--watch")
    assert code == 2 and err == f"kanpde: {tmp_path / 'none.h5'}: no such file\n"


@pytest.mark.usefixtures("bare")
def test_a_write_that_fails_leaves_the_former_page(solved, tmp_path, monkeypatch):
    path = shutil.copy(solved, tmp_path)
    before = report(path).read_bytes()
    monkeypatch.setattr(pages, "page_of_run", lambda *_: "\ud800")  # which no file can hold
    with pytest.raises(UnicodeEncodeError):
        report(path)
    assert (tmp_path / "solved-report.html").read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_notebook_shows_a_run_and_its_pictures(solved):
    run = Run.open(solved)
    shown = Page(run._repr_html_())
    assert f"{run.rel_l2:.3e}" in shown.text and "poisson, d = 3, metakan" in shown.text
    pictures = run.plot()
    assert list(pictures) == ["convergence", "error"]
    assert [image["src"][:18] for image in Page(pictures._repr_html_()).of("img")] == ["data:image/svg+xml"] * 2
    with pytest.raises(RunFileError):
        Run.open(solved.with_name("none.h5"))


def test_the_blocks_of_the_document_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(kanpde.__file__).parents[1] / "docs" / "report.md").read_text()
    names = {"__name__": "docs_report"}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/report.md", "exec"), names)
    assert (tmp_path / "poisson-report.html").is_file() and (tmp_path / "convergence.pdf").is_file()
    assert names["show"].path == Path("shown.h5")
