"""Gates: the public API says its types, to a reader and to mypy --strict; ruff has nothing to say of any file."""

import inspect
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import kanpde
from kanpde import backbones, domains, operators, problems, testing

ROOT = Path(__file__).parent.parent
ROOMS = {"kanpde": kanpde, "backbones": backbones, "domains": domains, "operators": operators, "problems": problems}
PUBLIC = {f"{room}.{name}": getattr(module, name) for room, module in ROOMS.items() for name in module.__all__}
PUBLIC |= {f"testing.{name}": member for name, member in vars(testing).items() if name.startswith("check_")}


def functions(name: str, member):
    """The functions of a public name that are kanpde's: itself, or methods and properties of its own."""
    if inspect.isclass(member):
        for inner, value in vars(member).items():
            if not inner.startswith("_") or inner in ("__init__", "__call__"):
                yield from functions(f"{name}.{inner}", value.fget if isinstance(value, property) else value)
    elif isinstance(member, staticmethod | classmethod):
        yield from functions(name, member.__func__)
    elif inspect.isfunction(member) and member.__module__.startswith("kanpde"):
        yield name, inspect.signature(member)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_say_their_types(name):
    for where, signature in functions(name, PUBLIC[name]):
        missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
        missing += ["return"] if signature.return_annotation is signature.empty and "__init__" not in where else []
        assert set(missing) <= {"self", "cls"}, f"{where}: {missing}"


def said(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.skipif(not find_spec("mypy"), reason="mypy is not installed")
def test_a_program_of_a_user_passes_mypy():
    assert not said("mypy", "--strict", "--follow-imports=silent", "tests/client.py")


@pytest.mark.skipif(not find_spec("ruff"), reason="ruff is not installed")
def test_ruff_has_nothing_to_say():
    assert not said("ruff", "check", "-q", ".") and not said("ruff", "format", "-q", "--check", ".")
