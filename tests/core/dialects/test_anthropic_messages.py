"""Anthropic Messages: what is read of requests; answers have golden files (`test_golden.py`)."""

import json
from typing import Any

import pytest

from gateway.core.dialects.anthropic_messages import (
    ANTHROPIC_MESSAGES,
    countable_text,
    read_answer,
    read_request,
)
from gateway.core.dialects.wire_format import ModelRequest, edited_body
from gateway.core.errors import BadCall

ASKED: dict[str, Any] = {"model": "claude-opus-5-5", "max_tokens": 500, "messages": []}
LIMIT = (b"max_tokens",)


def read(**more: Any) -> ModelRequest:
    return read_request(json.dumps(ASKED | more).encode())


def test_a_request_is_read() -> None:
    """Usage comes unasked; a limit is what the API demands, and may be 0."""
    assert read() == ModelRequest("claude-opus-5-5", False, 500, limit_keys=LIMIT, least_limit=1)
    assert read(stream=True).stream
    assert read(max_tokens=0).output_limit == 0
    assert read(max_tokens=None).output_limit is None
    assert read(max_tokens=-1).output_limit is None


def test_thought_must_fit_under_the_limit() -> None:
    """`budget_tokens` must stay below `max_tokens`, so no clamp may go under it."""
    assert read(thinking={"type": "enabled", "budget_tokens": 1_024}).least_limit == 1_025
    assert read(thinking={"type": "disabled"}).least_limit == 1


@pytest.mark.parametrize(
    ("more", "is_open"),
    [
        ({"tools": [{"name": "f", "input_schema": {}}]}, False),
        ({"tools": [{"type": "custom", "name": "f"}]}, False),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, False),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, True),
        ({"mcp_servers": [{"type": "url"}]}, True),
        ({"container": "c_1"}, True),
        ({"container": None, "mcp_servers": []}, False),
    ],
)
def test_whether_all_input_is_in_the_body(more: dict[str, Any], is_open: bool) -> None:
    """Tools that run at the provider bring in more."""
    assert read(**more).is_open is is_open


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"model":"a","model":"b"}',
        b'{"Max_Tokens":1}',
        b'{"max_tokens":"1"}',
        b'{"max_tokens":10000000000}',
        b'{"model":"%b"}' % (b"m" * 257),
    ],
)
def test_what_cannot_be_budgeted_is_refused(body: bytes) -> None:
    """As the client's fault."""
    with pytest.raises(BadCall) as caught:
        read_request(body)
    assert caught.value.code == "invalid_body"


def test_the_output_is_clamped_in_place() -> None:
    """No other byte changes."""
    body = b'{"max_tokens" : 500, "x":[1.50]}'
    asked = read_request(body)
    edited = edited_body(ANTHROPIC_MESSAGES, body, asked, ask_usage=True, clamp=70)
    assert edited == b'{"max_tokens" : 70, "x":[1.50]}'
    assert edited_body(ANTHROPIC_MESSAGES, body, asked, ask_usage=True, clamp=None) == body


def test_countable_text() -> None:
    """System, messages and tools count; images and signatures do not."""
    image = {"type": "image", "source": {"type": "base64", "data": "QUJD"}}
    thought = {"type": "thinking", "thinking": "Hm", "signature": "EqQB"}
    text = {"type": "text", "text": "Hi"}
    body = ASKED | {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [text, image, thought]}],
        "tools": [{"name": "f"}],
    }
    assert countable_text(json.dumps(body).encode()) == (
        'user\nHi\nHm\nBe brief.\n[{"name":"f"}]',
        6,
    )
    assert countable_text(b"no JSON") == ("no JSON", 3)


def test_odd_answers() -> None:
    """What is no answer is none; an odd member hides no other."""
    assert read_answer(b"[]") is None
    assert read_answer(b"{") is None
    odd = read_answer(b'{"delta":7,"usage":{"input_tokens":1,"output_tokens":2}}')
    assert odd is not None
    usage = odd.usage_after(None)
    assert usage is not None
    assert (usage.input_total, usage.output_total) == (1, 2)
