"""YAML as text with line numbers."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.findings import Findings
from gateway.yaml_source import (
    Kind,
    ListNode,
    MappingNode,
    Scalar,
    entry_map,
    is_missing,
    line_of,
    parse_mapping,
    plain,
    read_mapping,
    shape_of,
)


def parsed(text: str) -> MappingNode:
    findings = Findings("f.yaml")
    root = parse_mapping(text, findings)
    assert findings.items == []
    assert root is not None
    return root


def faults(text: str | bytes) -> list[str]:
    findings = Findings("f.yaml")
    assert parse_mapping(text, findings) is None
    return [str(item) for item in findings.items]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("", Kind.NULL, None),
        ("~", Kind.NULL, None),
        ("Null", Kind.NULL, None),
        ("true", Kind.BOOL, True),
        ("FALSE", Kind.BOOL, False),
        ("0", Kind.INTEGER, 0),
        ("-12", Kind.INTEGER, -12),
        ("65_536", Kind.INTEGER, 65_536),
        ("1.20", Kind.NUMBER, 1.2),
        (".5", Kind.NUMBER, 0.5),
        ("1e3", Kind.NUMBER, 1000.0),
        (".inf", Kind.NUMBER, math.inf),
        ("-.INF", Kind.NUMBER, -math.inf),
        ("9" * 19, Kind.NUMBER, 1e19),
        ("off", Kind.TEXT, "off"),
        ("yes", Kind.TEXT, "yes"),
        ("010", Kind.NUMBER, 10.0),
        ("0x10", Kind.TEXT, "0x10"),
        ("1_", Kind.TEXT, "1_"),
        ("12:30", Kind.TEXT, "12:30"),
        ("2026-01-01", Kind.TEXT, "2026-01-01"),
        ("'8080'", Kind.TEXT, "8080"),
        ('"true"', Kind.TEXT, "true"),
        ("nan", Kind.TEXT, "nan"),
    ],
)
def test_a_scalar_keeps_how_it_was_written(text: str, kind: Kind, value: object) -> None:
    node = entry_map(parsed(f"key: {text}"))["key"].value
    assert isinstance(node, Scalar)
    assert node.kind is kind
    assert plain(node) == value
    assert node.quoted == text.startswith(("'", '"'))


def test_not_a_number_is_a_number_for_the_reader_to_refuse() -> None:
    assert math.isnan(plain(parsed("k: .nan"))["k"])


def test_a_tree_becomes_plain_values() -> None:
    assert plain(parsed("a: {b: [1, x, null]}\nc: |\n  two\n  lines\n")) == {
        "a": {"b": [1, "x", None]},
        "c": "two\nlines\n",
    }


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    assert plain(parsed(text)) == {}


def test_lines_are_those_of_the_keys_or_of_the_nearest_ancestor() -> None:
    root = parsed("a: 1\n\nb:\n  C: 2\n  d:\n    - x\n    - y\n")
    assert line_of(root, ("a",)) == 1
    assert line_of(root, ("b", "c")) == 4, "the key's letter case does not matter"
    assert line_of(parsed("A: 1\na: 2\n"), ("a",)) == 2, "unless both are there"
    assert line_of(root, ("b", "d", 1)) == 7
    assert line_of(root, ("b", "d", 9)) == 5
    assert line_of(root, ("b", "missing", "deeper")) == 3
    assert line_of(root, ("a", "deeper")) == 1
    assert line_of(root, ("missing",)) == 1


def test_shapes_have_names() -> None:
    root = entry_map(parsed("m: {}\nl: []\ns: x\n"))
    assert [shape_of(root[key].value) for key in "mls"] == [
        "a mapping",
        "a list",
        "text ('x')",
    ]
    assert isinstance(root["l"].value, ListNode)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2\n", "f.yaml:2: a: is given twice, first in line 1"),
        ("s:\n  a: 1\n  b: 1\n  a: 2\n", "f.yaml:4: s.a: is given twice, first in line 2"),
        ("a: &x 1\nb: *x\n", "f.yaml:1: is not valid YAML: anchors and aliases"),
        ("a: *x\n", "f.yaml:1: is not valid YAML: anchors and aliases"),
        ("a: !env HOME\n", "f.yaml:1: a: the tag !env is not supported"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: a: the tag tag:yaml.org,2002:python/"),
        ("a: [1\n", "f.yaml:2: is not valid YAML: "),
        ("a: 1\n\tb: 2\n", "f.yaml:2: is not valid YAML: "),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: is not valid YAML: expected a single document"),
        ("- a\n- b\n", "f.yaml:1: must be a mapping of keys"),
        ("word\n", "f.yaml:1: must be a mapping of keys"),
        ("? [a, b]\n: 1\n", "f.yaml:1: a key must be a single word"),
        ("a: " + "[" * 40 + "]" * 40, "f.yaml:1: is not valid YAML: more than 24 levels deep"),
        (b"a: \xff\xfe\n", "f.yaml: is not UTF-8 text"),
        (b"a: \x00\n", "f.yaml: is not UTF-8 text"),
    ],
)
def test_what_is_not_plain_configuration_is_refused_with_its_line(
    text: str | bytes, problem: str
) -> None:
    """Section 3 item 8: nothing is ignored or overwritten in silence."""
    [fault] = faults(text)
    assert fault.startswith(problem)
    assert "Remedy: " in fault


@given(st.text(max_size=200))
def test_any_text_gives_a_mapping_or_a_reason(text: str) -> None:
    findings = Findings("f.yaml")
    root = parse_mapping(text.encode("utf-8", "surrogatepass"), findings)
    assert (root is None) == findings.has_errors


def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    findings = Findings("f.yaml")
    assert read_mapping(tmp_path / "none.yaml", findings) is None
    assert read_mapping(tmp_path, findings) is None
    assert [item.problem for item in findings.items] == [
        "cannot be read: No such file or directory",
        "cannot be read: Is a directory",
    ]


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    findings = Findings("f.yaml")
    assert read_mapping(file, findings) is None
    assert "larger than 4,194,304 bytes" in findings.items[0].problem


def test_only_what_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert is_missing(tmp_path / "none")
    assert is_missing(tmp_path / "file" / "below")
    assert not is_missing(tmp_path / "file")
    assert not is_missing(tmp_path / ("x" * 300))
