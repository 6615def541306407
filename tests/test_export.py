"""The function of a run in other programs' formats, each opened without kanpde and compared with the run."""

import ctypes
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from kanpde import train
from kanpde.cli import app
from kanpde.config import load
from kanpde.export import export, formats
from kanpde.ground.errors import ConfigError
from kanpde.operators import Autograd
from kanpde.problems import Heat, Poisson
from kanpde.runs.models import Run
from kanpde.solve import run_app
from kanpde.training.plan import Plan

WITHOUT = "import sys; sys.modules['kanpde'] = None\n"  # an import of it fails
SMALL = {"name": "kan", "widths": [4], "grid_size": 3}


def small(problem, path, backbone=SMALL, **options):
    return train(problem, backbone=backbone, steps=2, out=path / "run.h5", **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of Poisson's equation, and one in time."""
    of = {"poisson": Poisson(3), "heat": Heat(2)}
    return {name: small(problem, tmp_path_factory.mktemp(name)) for name, problem in of.items()}


def expected(run: Run, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Value, gradient and Laplacian by nested automatic differentiation in float64."""
    u, at = run.load_model().double(), torch.from_numpy(x)
    axes = u.problem.axes
    s = torch.zeros(1, axes.count, dtype=torch.float64)
    s[:, list(axes.space)] = 1
    jet = Autograd().estimate(u, at, s, torch.eye(axes.count, dtype=torch.float64), None)
    return tuple(part.detach().numpy() for part in (jet.value, jet.along, jet.lap))


def points(n: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.05, 0.4, (n, dim))


def is_near(found, wanted, tolerance=1e-12):
    for a, b in zip(found, wanted, strict=True):
        assert np.shape(a) == b.shape
        assert np.abs(np.asarray(a) - b).max() <= tolerance * np.abs(b).max()


def alone(code: str, folder) -> None:
    """Run code in a process that cannot import kanpde."""
    done = subprocess.run([sys.executable, "-c", WITHOUT + code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["poisson", pytest.param("heat", marks=pytest.mark.slow)])
def test_a_program_of_torch_takes_any_number_of_points_without_kanpde(runs, tmp_path, name):
    run = runs[name]
    (path,) = export(run, tmp_path / "u.pt2")
    x = points(17, 3)
    np.savez(tmp_path / "x.npz", x=x)
    alone(
        "import json, numpy, torch\n"
        "files = {'metadata.json': ''}\n"
        "f = torch.export.load('u.pt2', extra_files=files).module()\n"
        "x = torch.from_numpy(numpy.load('x.npz')['x'])\n"
        "for n in (1, 2, 17):\n"
        "    found = f(x[:n])\n"
        "    numpy.savez(f'{n}.npz', *[part.numpy() for part in found])\n"
        "json.loads(files['metadata.json'])['fields'] == ['u'] or exit(1)\n",
        tmp_path,
    )
    for n in (1, 2, 17):
        with np.load(tmp_path / f"{n}.npz") as found:
            is_near([found[key] for key in found], expected(run, x[:n]))
    assert path.name == "u.pt2"


@pytest.mark.parametrize("name", ["heat", pytest.param("poisson", marks=pytest.mark.slow)])
def test_a_file_of_numpy_needs_numpy_alone(runs, tmp_path, name):
    run = runs[name]
    export(run, tmp_path / "u.py", "numpy")
    x = points(5, 3)
    np.savez(tmp_path / "x.npz", x=x)
    alone(
        "sys.modules['torch'] = None\n"
        "import numpy, u\n"
        "x = numpy.load('x.npz')['x']\n"
        "one = u.u(x[0])\n"
        "assert one.shape == () and one == u.u(x[:1])[0]\n"
        "numpy.savez('found.npz', u.u(x), *u.derivatives(x))\n",
        tmp_path,
    )
    value, gradient, laplacian = expected(run, x)
    with np.load(tmp_path / "found.npz") as found:
        is_near([found[key] for key in found], [value, value, gradient, laplacian])
    space: dict = {}
    exec((tmp_path / "u.py").read_text(), space)
    assert space["ABOUT"]["laplacian_over"] == space["ABOUT"]["inputs"][: run.load_model().problem.dim]
    with pytest.raises(ValueError, match=r"u takes points \(N, 3\), or one point \(3,\); given \(2, 2\)"):
        space["u"](np.zeros((2, 2)))


def compiled(path):
    """The library of a C file, with every warning an error."""
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("no C compiler (cc or gcc) is installed")
    library = path.with_suffix(".so")
    strict = "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"
    subprocess.run([compiler, *strict, "-O1", "-shared", "-fPIC", "-o", library, path, "-lm"], check=True)
    return ctypes.CDLL(str(library))


def by_c(library, x: np.ndarray, fields: int = 1) -> list[np.ndarray]:
    """u, and value, gradient and Laplacian with a last axis of fields, at points."""
    pointer = lambda a: a.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
    found = []
    for point in x:
        sizes = fields, fields, fields * x.shape[1], fields
        alone, value, gradient, laplacian = parts = [np.full(size, np.nan) for size in sizes]
        library.u(pointer(point.copy()), pointer(alone))
        library.u_derivatives(pointer(point.copy()), pointer(value), pointer(gradient), pointer(laplacian))
        found.append(parts)
    return [np.stack(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("name", ["heat", pytest.param("poisson", marks=pytest.mark.slow)])
def test_a_file_of_c_needs_the_mathematical_library_alone(runs, tmp_path, name):
    export(runs[name], tmp_path / "u.c", "c")
    x = points(5, 3)
    found, (value, gradient, laplacian) = by_c(compiled(tmp_path / "u.c"), x), expected(runs[name], x)
    is_near(found, [value[:, None], value[:, None], gradient, laplacian[:, None]])
    assert (tmp_path / "u.c").read_text().count("#include") == 1


def of_plan(name: str, backbone: dict) -> formats.Found:
    """What an untrained network of a problem of the library would be exported as."""
    found = formats.Found(None, Plan.of(load(name, overrides={"backbone": backbone})).ansatz("cpu"))
    vars(found)["metadata"] = {
        "problem": name,
        "run": "run.h5",
        "inputs": [found.u.problem.axes.name(axis) for axis in range(found.u.problem.axes.count)],
        "fields": list(found.u.problem.fields),
        "laplacian_over": [],
    }
    return found


BACKBONES = {
    "mlp": {"widths": [4, 4], "activation": "softplus"},
    "metakan": {"widths": [4], "meta_hidden": 4, "grid_size": 21},
    "fastkan": {"widths": [4, 4]},
    "wavkan": {"widths": [4]},
    "chebykan": {"widths": [4], "degree": 3},
    "fourierkan": {"widths": [4], "harmonics": 2},
    "gramkan": {"widths": [4], "degree": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_goes(tmp_path, backbone):
    """Generated weights, local splines, norms and recurrences; numpy and torch are compared with the run as written."""
    found = of_plan("helmholtz", {"name": backbone, **BACKBONES[backbone]})
    formats.FORMATS["numpy"].write(found, tmp_path / "u.py")
    formats.FORMATS["c"].write(found, tmp_path / "u.c")
    x = found.points.numpy()
    value, gradient, laplacian = (part.numpy() for part in found.expected)
    is_near(by_c(compiled(tmp_path / "u.c"), x), [value[:, None], value[:, None], gradient, laplacian[:, None]])


@pytest.mark.slow
def test_several_fields_with_a_lift_that_is_differentiated(tmp_path):
    found = of_plan("cavity", {"name": "mlp", "widths": [4]})
    for name in ("torch", "numpy", "c"):
        formats.FORMATS[name].write(found, tmp_path / f"u{formats.FORMATS[name].suffix}")
    value, gradient, laplacian = (part.numpy() for part in found.expected)
    by = by_c(compiled(tmp_path / "u.c"), found.points.numpy(), 3)
    is_near(by, [value, value, gradient.reshape(len(value), -1), laplacian])


@pytest.mark.slow
def test_a_library_of_aotinductor_takes_any_number_of_points_without_kanpde(runs, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler (g++) is installed")
    export(runs["poisson"], tmp_path / "u.pt2", "aoti")
    for n in (1, 2, 17):
        x = points(n, 3)
        np.savez(tmp_path / "in.npz", x=x)
        code = """
import numpy as np, torch
f = torch._inductor.aoti_load_package("u.pt2")
np.savez("out.npz", *(part.numpy() for part in f(torch.from_numpy(np.load("in.npz")["x"]))))
"""
        alone(code, tmp_path)
        with np.load(tmp_path / "out.npz") as out:
            is_near([out[f"arr_{i}"] for i in range(3)], expected(runs["poisson"], x))


def test_without_a_compiler_a_line_says_what_to_install(runs, tmp_path, monkeypatch):
    from torch._inductor import exc

    def fails(*_, **__):
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fails)
    with pytest.raises(ConfigError, match="aoti: no C.. compiler is found") as info:
        export(runs["poisson"], tmp_path / "u.pt2", "aoti")
    assert "\n" not in str(info.value) and not (tmp_path / "u.pt2").exists()


def onnx_is_here():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra export)")


@pytest.mark.parametrize("name", ["poisson", pytest.param("heat", marks=pytest.mark.slow)])
def test_onnxruntime_gives_the_same_for_any_number_of_points(runs, tmp_path, name):
    onnx_is_here()
    import onnxruntime

    export(runs[name], tmp_path / "u.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "u.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["fields"]) == ["u"]
    for n in (1, 2, 17):
        x = points(n, 3)
        found = session.run(["value", "gradient", "laplacian"], {"x": x})
        is_near(found, expected(runs[name], x))  # float64 throughout: not 1e-6 but 1e-12


@pytest.mark.slow
def test_onnx_refuses_what_onnxruntime_does_not_compute_in_float64(tmp_path):
    onnx_is_here()
    found = of_plan("helmholtz", {**SMALL, "base": "gelu"})
    with pytest.raises(ConfigError, match="onnxruntime has no Erf.* in float64"):
        formats.FORMATS["onnx"].write(found, tmp_path / "u.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx_a_line_says_what_to_install(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.as_onnx, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'kanpde\[export\]'"):
        export(runs["poisson"], tmp_path / "u.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_what_a_file_says_of_itself_is_no_source(tmp_path):
    """A result file that somebody made may have any text for its names."""
    run = small(Poisson(2), tmp_path / "run.h5", {"name": "mlp", "widths": [2]})
    run.attrs["problem"] = 'p"""\nraise SystemExit(3)\n"""*/ #error \\'
    for style, ending in (("numpy", "py"), ("c", "c")):
        (path,) = export(run, tmp_path / f"u.{ending}", style)
        assert not any(line.startswith(("raise", " #error", "#error")) for line in path.read_text().splitlines())
    if shutil.which("cc"):
        compiled(tmp_path / "u.c")


def test_vtk_is_the_mesh_of_the_file(runs, tmp_path):
    import pyvista

    (path,) = export(runs["poisson"], tmp_path / "u.vtu", "vtk")
    mesh, kept = pyvista.read(path), runs["poisson"].meshes["domain"]
    assert np.array_equal(mesh.point_data["u"], kept["u"])
    written = export(runs["heat"], tmp_path / "heat.pvd", "vtk")
    assert [path.name for path in written[-2:]] == [f"heat-{len(written) - 2}.vtu", "heat.pvd"]
    assert all(path.is_file() for path in written) and len(list(tmp_path.iterdir())) == 1 + len(written)


def test_files_of_other_numbers_are_not_written(runs, tmp_path, monkeypatch):
    other = lambda found, out: found.check([1.001 * part for part in found.expected], 1e-12, "numpy")
    monkeypatch.setitem(formats.FORMATS, "numpy", formats.Format(".py", other, ""))
    with pytest.raises(ConfigError, match="--format numpy: its value is off by 1.0e-03, more than 1e-12: not written"):
        export(runs["poisson"], tmp_path / "u.py", "numpy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "style", "line"),
    [
        ("u.py", "torch", "needed is a file ending in .pt2"),
        ("no/u.py", "numpy", "there is no folder"),
        ("there.py", "numpy", "the file exists; choose another name"),
        ("u.x", "onx", "unknown format 'onx'; did you mean onnx?"),
        ("u.vtu", "vtk", "has no mesh"),
    ],
)
def test_a_bad_call_is_one_line(runs, tmp_path, out, style, line):
    run = small(Poisson(5), tmp_path, {"name": "mlp", "widths": [4]}) if style == "vtk" else runs["poisson"]
    (tmp_path / "there.py").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=line.replace("?", r"\?")):
        export(run, tmp_path / out, style)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command(runs, tmp_path, monkeypatch, capsys):
    words = ["kanpde", "export", str(runs["poisson"].path), "--format", "vtk", "--out", str(tmp_path / "u.vtu")]
    monkeypatch.setattr(sys, "argv", words)
    for code in (0, 2):  # the second time the file is there
        with pytest.raises(SystemExit) as ended:
            run_app(app)
        assert ended.value.code == code
    said = capsys.readouterr()
    assert "u.vtu" in said.out and "the file exists" in said.err and "Traceback" not in said.err


class Cubes(nn.Module):
    """A module that no jet goes through."""

    def forward(self, x):
        return (x**3).exp().sum(1, keepdim=True)


@pytest.mark.slow
def test_a_network_without_rules_is_differentiated(tmp_path):
    """It reads the result of a function in its backward pass, which torch's exporter loses at once."""
    found = of_plan("helmholtz", {"name": "mlp", "widths": [4]})
    found.u.net = Cubes()
    assert not found.derivatives.has_rules
    formats.FORMATS["torch"].write(found, tmp_path / "u.pt2")
    x = found.points
    units = torch.eye(2, dtype=torch.float64)
    jet = Autograd().estimate(found.derivatives.u, x, torch.ones(1, 2, dtype=torch.float64), units, None)
    is_near(
        torch.export.load(tmp_path / "u.pt2").module()(x), [t.detach().numpy() for t in (jet.value, jet.along, jet.lap)]
    )
