"""The function as an ONNX model: torch's exporter, and what it rounds in float64 put right before."""

import contextlib
import io
import logging
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, fx

from kanpde.export.listing import OPERATION
from kanpde.ground.errors import ConfigError

NEEDED = "onnx", "onnxscript", "onnxruntime"
WITH_TENSOR = {"clamp.default": "clamp.Tensor"} | {
    f"{name}.Scalar": f"{name}.Tensor" for name in ("lt", "le", "gt", "ge", "eq", "ne")
}
FILLED = "full.default", "full_like.default", "scalar_tensor.default"


def check_installed() -> None:
    """Raises ConfigError where a package is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f"--format onnx needs {', '.join(missing)}: pip install 'kanpde[export]'")


def model(
    program: torch.export.ExportedProgram, x: Tensor, outputs: tuple[str, ...], metadata: dict[str, str]
) -> bytes:
    """The file, with inputs x (N, d) and the outputs by name.

    Raises:
        ConfigError: the exporter has no rule for something.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
        warnings.simplefilter("ignore")
        free = ({0: torch.export.Dim("points", min=1)},)
        exact = torch.export.export(_exact(program), (x,), dynamic_shapes=free)
        try:
            found = torch.onnx.export(
                exact, (x,), dynamo=True, verbose=False, input_names=["x"], output_names=list(outputs)
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = next(
                (line for line in str(error).splitlines() if "No decompositions" in line or "ERROR" in line),
                str(error).splitlines()[0],
            )
            raise ConfigError(f"--format onnx: torch's exporter cannot write u ({reason.strip()})") from None
    proto = found.model_proto
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def run(image: bytes, x: Tensor) -> list:
    """What onnxruntime makes of it at points.

    Raises:
        ConfigError: it has no kernel for an operation in float64.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(image, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a private module of onnxruntime
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        name = str(error).partition("implementation for ")[2].partition(" ")[0]
        raise ConfigError(f"--format onnx: onnxruntime has no {name} in float64, which u needs; torch has") from None
    return session.run(None, {"x": x.numpy()})


@contextlib.contextmanager
def _quiet():
    """Without the exporter's lines about packages that are not installed."""
    log = logging.getLogger("torch.onnx")
    former, log.level = log.level, logging.ERROR
    try:
        yield
    finally:
        log.level = former


def _exact(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The operations with every number in them a tensor: the exporter rounds numbers to float32, tensors not."""
    module = program.run_decompositions().module()
    graph, numbers = module.graph, {}

    def tensor(value: float, before: fx.Node, like: fx.Node) -> fx.Node:
        kind = like.meta["val"].dtype
        name = numbers.setdefault((value, kind), f"number_{len(numbers)}")
        module.register_buffer(name, torch.tensor(value, dtype=kind))
        with graph.inserting_before(before):
            return graph.get_attr(name)

    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, OPERATION):
            continue
        op = str(node.target).removeprefix("aten.")
        if op == "cumprod.default":
            _multiply(node)
        elif op in FILLED and isinstance(node.meta["val"], Tensor) and node.meta["val"].is_floating_point():
            _fill(node, op, tensor)
        elif op.startswith("pow.") or not any(isinstance(a, float) for a in node.args):
            continue
        else:
            like = node.all_input_nodes[0]
            node.args = tuple(tensor(a, node, like) if isinstance(a, float) else a for a in node.args)
            packet, overload = WITH_TENSOR.get(op, op).split(".")
            node.target = getattr(getattr(torch.ops.aten, packet), overload)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _fill(node: fx.Node, op: str, tensor) -> None:
    """A tensor filled with a number as that number, expanded."""
    aten = torch.ops.aten
    value = tensor(float(node.args[-1]), node, node)
    if op == "scalar_tensor.default":
        node.replace_all_uses_with(value)
    elif op == "full.default":
        node.target, node.args, node.kwargs = aten.expand.default, (value, node.args[0]), {}
    else:
        with node.graph.inserting_before(node):
            zero = node.graph.call_function(aten.zeros_like.default, (node.args[0],))
        node.target, node.args, node.kwargs = aten.add.Tensor, (zero, value), {}


def _multiply(node: fx.Node) -> None:
    """Running products along an axis one by one: the exporter has no rule for cumprod."""
    aten, graph = torch.ops.aten, node.graph
    x, axis = node.args[:2]
    with graph.inserting_before(node):
        parts = [graph.call_function(aten.slice.Tensor, (x, axis, i, i + 1)) for i in range(x.meta["val"].shape[axis])]
        for i in range(1, len(parts)):
            parts[i] = graph.call_function(aten.mul.Tensor, (parts[i - 1], parts[i]))
        node.replace_all_uses_with(graph.call_function(aten.cat.default, (parts, axis)))
