"""YAML as text with line numbers: a tree of scalars that still know how they were written.

PyYAML's own construction is not used, for it loses what the rules need: `1.2` becomes a binary
float, `off` a boolean, a key given twice the later of the two, and no value knows its line. Plain
scalars follow the YAML 1.2 core schema (only `true` and `false` are booleans). Anchors, aliases,
merge keys and tags are refused: a value stands where it is used.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from gateway.findings import Findings

Key = tuple[str | int, ...]


class Kind(Enum):
    """How a scalar was written; the value is the word for an error message."""

    NULL = "nothing"
    BOOL = "a boolean"
    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value as it is written; `quoted` also for block text."""

    text: str
    kind: Kind
    line: int
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping with its value; `line` is the key's."""

    key: str
    line: int
    value: "Node"


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys and values in the order of the file; keys are unique."""

    entries: tuple[Entry, ...]
    line: int


@dataclass(frozen=True, slots=True)
class ListNode:
    """Values in the order of the file."""

    items: tuple["Node", ...]
    line: int


Node = Scalar | MappingNode | ListNode

_INTEGER = re.compile(r"[-+]?(?:0|[1-9](?:_?[0-9])*)")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|nan)", re.IGNORECASE)
_WORD_AFTER_POINT = re.compile(r"\.(?=[a-zA-Z])")  # YAML's `.inf` is Python's `inf`
_MAX_INTEGER_DIGITS = 18
_MAX_FILE_BYTES = 4 * 1024 * 1024
_MAX_DEPTH = 24
_STANDARD = "tag:yaml.org,2002:"
_STANDARD_TAGS = frozenset(f"{_STANDARD}{kind}" for kind in ("str", "map", "seq"))


class _Composer(yaml.SafeLoader):
    """Builds nodes only; no implicit types, no aliases, no endless nesting."""

    depth = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode:
            return f"{_STANDARD}str"
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not supported", problem_mark=event.start_mark
            )
        if self.depth >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MAX_DEPTH} levels deep", problem_mark=event.start_mark
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def is_missing(path: Path) -> bool:
    """Return whether there is nothing at `path`; what may not be looked at is not missing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def read_mapping(path: Path, findings: Findings) -> MappingNode | None:
    """Return the mapping that the file holds; an empty file is an empty mapping.

    Returns None, with the reason in `findings`, if the file cannot be read or holds anything else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        findings.error("", None, f"cannot be read: {error.strerror}", "name a readable file")
        return None
    if len(content) > _MAX_FILE_BYTES:
        findings.error("", None, f"is larger than {_MAX_FILE_BYTES:,} bytes", "shorten the file")
        return None
    return parse_mapping(content, findings)


def parse_mapping(content: bytes | str, findings: Findings) -> MappingNode | None:
    """Return the mapping that `content` holds, as `read_mapping` does for a file."""
    try:
        composed = _Composer(content).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        what = ", ".join(part for part in (error.context, error.problem) if part)
        findings.error("", line, f"is not valid YAML: {what}", "correct the syntax")
        return None
    except (yaml.YAMLError, UnicodeDecodeError):
        findings.error("", None, "is not UTF-8 text", "save the file as UTF-8")
        return None
    node = Scalar("", Kind.NULL, 1) if composed is None else _node(composed, "", findings)
    if isinstance(node, Scalar) and node.kind is Kind.NULL:
        return MappingNode((), 1)
    if findings.has_errors or isinstance(node, MappingNode):
        return node if isinstance(node, MappingNode) and not findings.has_errors else None
    findings.error("", node.line, "must be a mapping of keys", "start with a key, `name: value`")
    return None


def _node(composed: yaml.Node, path: str, findings: Findings) -> Node:
    line = composed.start_mark.line + 1
    if composed.tag not in _STANDARD_TAGS:
        findings.error(path, line, f"the tag {composed.tag} is not supported", "leave out the tag")
    if isinstance(composed, yaml.MappingNode):
        return MappingNode(tuple(_entries(composed, path, findings)), line)
    if isinstance(composed, yaml.SequenceNode):
        items = (_node(item, f"{path}.{i}", findings) for i, item in enumerate(composed.value))
        return ListNode(tuple(items), line)
    text = str(composed.value)
    quoted = not isinstance(composed, yaml.ScalarNode) or composed.style is not None
    return Scalar(text, Kind.TEXT if quoted else _kind_of(text), line, quoted)


def _entries(composed: yaml.MappingNode, path: str, findings: Findings) -> Iterator[Entry]:
    seen: dict[str, int] = {}
    for key_node, value_node in composed.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            findings.error(path, line, "a key must be a single word", "write `key: value`")
            continue
        key = str(key_node.value)
        full = f"{path}.{key}" if path else key
        if key in seen:
            findings.error(full, line, f"is given twice, first in line {seen[key]}", "remove one")
            continue
        seen[key] = line
        yield Entry(key, line, _node(value_node, full, findings))


def _kind_of(text: str) -> Kind:
    if text in ("", "~") or text.lower() == "null":
        return Kind.NULL
    if text.lower() in ("true", "false"):
        return Kind.BOOL
    if _INTEGER.fullmatch(text):
        return Kind.INTEGER if len(text) <= _MAX_INTEGER_DIGITS else Kind.NUMBER
    if _NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        return Kind.NUMBER
    return Kind.TEXT


_PYTHON_VALUE: Mapping[Kind, Callable[[str], Any]] = {
    Kind.NULL: lambda text: None,
    Kind.BOOL: lambda text: text.lower() == "true",
    Kind.INTEGER: int,
    Kind.NUMBER: lambda text: float(_WORD_AFTER_POINT.sub("", text)),
    Kind.TEXT: str,
}


def plain(node: Node) -> Any:
    """Return the tree as dictionaries, lists and Python values, for pydantic to validate."""
    if isinstance(node, MappingNode):
        return {entry.key: plain(entry.value) for entry in node.entries}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return _PYTHON_VALUE[node.kind](node.text)


def line_of(node: Node, key: Key) -> int:
    """Return the line of `key`, or of the nearest of its ancestors that the file has."""
    line = node.line
    for part in key:
        if isinstance(node, MappingNode):
            entry = _entry_of(node, str(part))
            if entry is None:
                return line
            node, line = entry.value, entry.line
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            return line
    return line


def _entry_of(node: MappingNode, key: str) -> Entry | None:
    """Return the entry of `key`, else the one that differs in letter case only."""
    in_any_case = [entry for entry in node.entries if entry.key.lower() == key.lower()]
    exact = [entry for entry in in_any_case if entry.key == key]
    return next(iter(exact or in_any_case), None)


def shape_of(node: Node) -> str:
    """Return what a node is, for an error message."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    return node.kind.value if node.kind is Kind.NULL else f"{node.kind.value} ({node.text!r})"


def entry_map(node: MappingNode) -> Mapping[str, Entry]:
    """Return a mapping's entries by key."""
    return {entry.key: entry for entry in node.entries}
