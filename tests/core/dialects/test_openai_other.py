"""Legacy completions and embeddings: requests; answers have golden files (`test_golden.py`)."""

import json
from typing import Any

import pytest

from gateway.core.dialects.openai_other import (
    OPENAI_COMPLETIONS,
    embedding_text,
    prompt_text,
    read_completion,
    read_embedding,
    read_embedding_answer,
)
from gateway.core.dialects.wire_format import ModelRequest, edited_body
from gateway.core.errors import BadCall


def read(**asked: Any) -> ModelRequest:
    return read_completion(json.dumps({"model": "m", **asked}).encode())


@pytest.mark.parametrize(
    ("asked", "limit", "choices"),
    [
        ({}, 16, 1),
        ({"max_tokens": None}, 16, 1),
        ({"max_tokens": 0}, 0, 1),
        ({"max_tokens": -1}, None, 1),
        ({"max_tokens": 9, "n": 2, "best_of": 3}, 9, 3),
        ({"n": 4, "prompt": "a"}, 16, 4),
        ({"n": 2, "prompt": ["a", "b", "c"]}, 16, 6),
        ({"prompt": [1, 2, 3]}, 16, 1),
        ({"prompt": [[1, 2], [3]]}, 16, 2),
        ({"prompt": []}, 16, 1),
    ],
)
def test_what_bounds_the_output(asked: dict[str, Any], limit: int | None, choices: int) -> None:
    """16 tokens by default, for every candidate of every prompt."""
    request = read(**asked)
    assert (request.output_limit, request.choices) == (limit, choices)


def test_usage_is_asked_for_in_a_stream() -> None:
    """As in a chat."""
    assert read().usage_wish is None
    assert read(stream=True).usage_wish == (b"stream_options", b'{"include_usage":true}')
    body = b'{"stream":true}'
    edited = edited_body(OPENAI_COMPLETIONS, body, read_completion(body), ask_usage=True, clamp=9)
    assert edited == b'{"stream_options":{"include_usage":true},"max_tokens":9,"stream":true}'


def test_what_cannot_be_budgeted_is_refused() -> None:
    """Ten thousand choices are enough."""
    for body in (b"{", b'{"n":10001}', b'{"prompt":[%b"a"]}' % (b'"a",' * 20_000)):
        with pytest.raises(BadCall):
            read_completion(body)
    with pytest.raises(BadCall):
        read_embedding(b'{"model":7}')


def test_an_embedding_puts_nothing_out() -> None:
    """Its only cost is its input."""
    assert read_embedding(b'{"model":"e","input":"a"}') == ModelRequest("e", output_limit=0)


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        ("a", ("a", 0)),
        (["a", "b"], ("a\nb", 0)),
        ([1, 2, 3], ("", 3)),
        ([[1, 2], [3]], ("", 3)),
        (None, ("", 0)),
    ],
)
def test_countable_text(value: Any, counted: tuple[str, int]) -> None:
    """Texts by their text, token numbers by their number."""
    assert prompt_text(json.dumps({"prompt": value}).encode()) == counted
    assert embedding_text(json.dumps({"input": value}).encode()) == counted
    assert embedding_text(b"odd") == ("odd", 0)


def test_odd_answers() -> None:
    """What is no answer is none; half a usage is none."""
    assert read_embedding_answer(b"[]") is None
    half = read_embedding_answer(b'{"usage":{"total_tokens":8}}')
    assert half is not None
    assert (half.text(), half.usage_after(None)) == ("", None)
