"""What of a request is text."""

import pytest

from gateway.core.dialects.prompt_text import read_object, text_of, texts_in


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a", ["a"]),
        (None, []),
        (7, ["7"]),
        (["a", ["b", None]], ["a", "b"]),
        ({"type": "text", "text": "a", "deeper": {"b": ["c"]}}, ["a", "c"]),
        ({"type": "image", "source": {"data": "QUJD"}}, []),
    ],
)
def test_texts_in(value: object, texts: list[str]) -> None:
    """Of whatever is nested; names of members and payloads are left out."""
    assert texts_in(value) == texts


def test_text_of() -> None:
    """Anything but a text counts as its JSON."""
    assert [text_of(value) for value in ("a", None, [], {"é": 1})] == ["a", "", "", '{"é":1}']


def test_read_object() -> None:
    """Only an object is one."""
    assert read_object(b'{"a":1}') == {"a": 1}
    assert read_object(b"[]") is None
    assert read_object(b"{") is None
