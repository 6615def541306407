"""YAML read strictly, without surprises, and one line for what does not fit."""

import re
from pathlib import Path

import yaml

from kanpde.ground.errors import ConfigError, shown

DEPTH = 100  # mappings and lists within each other
NODES = 100_000  # of a file whose aliases are written out
WORDS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "null")}  # as keys: columns called on, no or null


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file.

    Raises:
        ConfigError: not readable, not YAML, empty, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    tree = parse(text, str(path))
    if isinstance(tree, dict):
        return tree
    what = "empty" if tree is None else f"a {type(tree).__name__}"
    raise ConfigError(f"{path}: the file is {what}; needed is a mapping with the keys of a run")


def parse(text: str, where: str):
    """The value of a YAML text.

    Raises:
        ConfigError: not YAML; a key that stands twice; a list within itself, or within more than DEPTH others; aliases
            for more than NODES values; an integer that begins with 0, which is octal; a character of code 0.
    """
    loader = None
    try:
        loader = _Strict(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}: not valid YAML: {line}{' '.join(str(error.problem or error).split())}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Strict(yaml.SafeLoader):
    """YAML 1.1, but 1e-3 is a number, and dates, and keys such as `on`, are words; see `parse` for what is refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":timestamp", ":value"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth, aliases = 0, False

    def get_single_node(self):
        node = super().get_single_node()
        if self.aliases and (size := _written_out(node, {})[0]) > NODES:
            raise yaml.YAMLError(f"its aliases stand for {size:.1e} values, allowed are {NODES}")
        return node

    def compose_node(self, parent, index):
        self.depth, self.aliases = self.depth + 1, self.aliases or self.check_event(yaml.AliasEvent)
        if self.depth > DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"more than {DEPTH} levels", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor):
        node, first = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag in WORDS:
                key.tag = self.DEFAULT_SCALAR_TAG
            same = key.tag, key.value
            if same in first:
                text = f"the key {shown(key.value)} stands twice, first in line {first[same]}"
                raise yaml.MarkedYAMLError(None, None, text, key.start_mark)
            first[same] = key.start_mark.line + 1
        return node

    def construct_object(self, node, deep=False):
        try:
            if node.tag == "tag:yaml.org,2002:int" and re.fullmatch(r"[-+]?0[0-7_]+", node.value):
                octal, plain = int(node.value.replace("_", ""), 8), node.value.replace("_", "").lstrip("+-0") or "0"
                text = f"{node.value} is the octal number {octal} in YAML: write {octal}, or {plain}"
                raise yaml.MarkedYAMLError(None, None, text, node.start_mark)
            if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
                raise yaml.MarkedYAMLError(None, None, "a character of code 0", node.start_mark)
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError):
            text = f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(None, None, text, node.start_mark) from None


_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _written_out(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many nodes it has, and how many levels, with every alias written out; `known` is None for those it is in."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) not in known:
        known[id(node)] = None
        children = node.value if isinstance(node, yaml.SequenceNode) else [n for pair in node.value for n in pair]
        found = [_written_out(child, known) for child in children]
        known[id(node)] = 1 + sum(size for size, _ in found), 1 + max((levels for _, levels in found), default=0)
    measured = known[id(node)]
    if measured is None or measured[1] > DEPTH:
        text = "an alias within what it stands for" if measured is None else f"more than {DEPTH} levels"
        raise yaml.MarkedYAMLError(None, None, text, node.start_mark)
    return measured
