"""Mutations: what is changed, where both checkouts have it, and which tests notice."""

import pytest

from benchmarks.common import mutations
from kanpde.ground.errors import ConfigError

SOURCE = '''
def sign(x: int = 1, name: str = "no 2"):
    """Of 3."""
    if x < 0:
        return -1
    return f"{x + 1}" if not name else int(x != 0)


LIMIT = 7
'''
TEST = "from kanpde.jets.sign import sign\n\n\ndef test_sign():\n    assert (sign(-2), sign(2)) == (-1, 1)\n"


@pytest.fixture
def checkout(tmp_path):
    """A package of one function, and its only test."""
    for path, text in (("kanpde/jets/sign.py", SOURCE), ("tests/test_operators.py", TEST)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "kanpde/__init__.py").touch()  # before an installed kanpde
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntestpaths = ['tests']\n")
    return tmp_path


def of(checkout, becomes):
    (found,) = (m for m in mutations.all_of(checkout) if m.becomes == becomes)
    return found


def test_a_mutation_changes_one_thing_of_a_function(checkout):
    assert {m.becomes for m in mutations.all_of(checkout)} == {
        'def sign(x: int = (2), name: str = "no 2"):',
        "if (x <= 0):",
        "if x < (1):",
        "return (1)",
        "return -(2)",
        'return f"{x + 1}" if (name) else int(x != 0)',
        'return f"{x + 1}" if not name else int((x == 0))',
        'return f"{x + 1}" if not name else int(x != (1))',
    }
    assert all(m.function == "sign" and m.path == "kanpde/jets/sign.py" for m in mutations.all_of(checkout))


def test_what_is_caught(checkout):
    assert mutations.caught(checkout, of(checkout, "return (1)")) == "tests/test_operators.py::test_sign"
    assert mutations.caught(checkout, of(checkout, "if (x <= 0):")) == ""


def test_drawn_are_mutations_that_both_checkouts_have(checkout, monkeypatch):
    monkeypatch.setattr(mutations, "HERE", checkout)
    assert {(a, b) for a, b in mutations.drawn(checkout, 99, 0)} == {(m, m) for m in mutations.all_of(checkout)}
    assert mutations.drawn(checkout, 3, 1) == mutations.drawn(checkout, 3, 1)


def test_a_former_checkout_is_needed(tmp_path):
    with pytest.raises(ConfigError, match="--before must be a checkout of kanpde"):
        mutations.main(["--before", str(tmp_path)])
