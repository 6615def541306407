"""Who looks on while a function runs, and what torch.compile is told: the one place that knows torch's private corners.

torch.compile, torch.export and torch.jit.trace record the operations; torch.func (vmap, grad, jvp) and forward mode go
through them as they run. None of them sees what a custom backward pass, a buffer or a branch on numbers does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kanpde.ground.errors import ConfigError

# Who looks on ------------------------------------------------------------------------------------------------------


def compiling() -> bool:
    """Whether torch.compile or torch.export record."""
    return torch.compiler.is_compiling()


def recorded() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace record plain operations, to differentiate them itself."""
    return compiling() or torch.jit.is_tracing()


# before torch 2.7 an export cannot be told from compiling
_exported = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def exporting() -> bool:
    """Whether what is recorded will be given any number of points."""
    return _exported() or torch.jit.is_tracing()


def in_torch_func() -> bool:
    """Whether torch.func transforms the call: it takes neither torch.autograd nor checkpoints."""
    return torch._C._are_functorch_transforms_active()


def plainly() -> bool:
    """Whether operations are to be plain: recorded, or seen by forward mode, which goes through them by itself."""
    return recorded() or forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether the former or torch.func look on: they take no buffers that are written into."""
    return plainly() or in_torch_func()


def differentiated_once() -> bool:
    """Whether the compiler will differentiate what it sees, once: not where torch.func does within."""
    return compiling() and not in_torch_func()


def asked_for(ctx) -> tuple[bool, ...]:
    """Of which arguments of a custom function the gradients will be read in the backward pass that runs."""
    if in_torch_func():
        return ctx.needs_input_grad
    nodes = iter(ctx.next_functions)
    return tuple(needed and _is_read(next(n for n, _ in nodes if n is not None)) for needed in ctx.needs_input_grad)


def _is_read(node) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad was given
        return True


# What is seen ------------------------------------------------------------------------------------------------------


def has_numbers(x: Tensor) -> bool:
    """Whether a branch may depend on the numbers in x, and memory of x be written into: not if x has shapes alone."""
    return type(x) in (Tensor, nn.Parameter) and not x.is_meta


def readable(x: Tensor) -> bool:
    """Whether a branch may depend on the numbers in x here and now: it has some, and nobody records or batches them."""
    return not recorded() and not in_torch_func() and has_numbers(x)


# What torch.export is told ----------------------------------------------------------------------------------------


def exported(module: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    """The program of a module (N, d) -> tensors, for any number N of points.

    Bytecode is traced (strict), as there len(x) may stay free; tracing by running would fix N. What differentiates
    automatically within is traced in two steps, the second below autograd: at once, torch 2.13 writes tensors without
    numbers into the program, where a backward pass reads the result of a function.

    Raises:
        RuntimeError: something in it cannot be traced.
    """
    import torch._dynamo
    from torch.fx.experimental.proxy_tensor import make_fx

    free = ({0: torch.export.Dim("points", min=1)},)
    try:
        return torch.export.export(module, (x,), dynamic_shapes=free, strict=True)
    except torch._dynamo.exc.Unsupported as error:
        if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
            raise RuntimeError("it differentiates automatically, which this torch does not export") from error
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        graph = torch._dynamo.export(module, aten_graph=False, dynamic_shapes=free)(x).graph_module
    operations = make_fx(graph, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)
    return torch.export.export(operations, (x,), dynamic_shapes=free)


def compiled_ahead(program: torch.export.ExportedProgram, package: Path) -> tuple[Callable, Path]:
    """A program as a library for this machine by AOTInductor: loaded, and its file.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        made = aoti_compile_and_package(program, package_path=str(package))
    except InvalidCxxCompiler:
        raise ConfigError("--format aoti: no C++ compiler is found, which makes the library; install g++") from None
    return aoti_load_package(made), Path(made)


# What torch.compile is told ----------------------------------------------------------------------------------------


def uncompiled(function: Callable) -> Callable:
    """A decorator, `torch.compiler.disable`, which loads the compiler (a second) when it is called and not before."""
    return torch._disable_dynamo(function)


def constant(function: Callable) -> Callable:
    """A decorator, `torch.compiler.assume_constant_result`, which sets this mark, without loading the compiler."""
    function._dynamo_marked_constant = True
    return function


def apart(function: Callable, name: str) -> Callable:
    """`function` under a name of its own, for torch.compile to count its compilations apart.

    It keeps and counts what it has compiled by code object, and closures of one function share theirs: after eight it
    gives up. torch has no option for it but isolate_recompiles of 2.13, under which one limit over all stays.
    """
    function.__code__ = function.__code__.replace(co_name=name)
    return function


@contextmanager
def compiler_settings(recompilations: int, activations: float) -> Iterator[None]:
    """Settings of torch.compile: compilations of one function at most; the share of activations kept for a backward."""
    import torch._dynamo
    import torch._functorch.config

    with (
        torch._dynamo.config.patch(recompile_limit=recompilations),
        torch._functorch.config.patch(activation_memory_budget=activations),
    ):
        yield
