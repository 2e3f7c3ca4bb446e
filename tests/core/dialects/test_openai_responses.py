"""OpenAI Responses: what is read of requests; answers have golden files (`test_golden.py`)."""

import json
from typing import Any

import pytest

from gateway.core.dialects.openai_responses import (
    OPENAI_RESPONSES,
    countable_text,
    read_answer,
    read_request,
)
from gateway.core.dialects.wire_format import ModelRequest, edited_body
from gateway.core.errors import BadCall

ASKED: dict[str, Any] = {"model": "gpt-5.6", "input": "Hi"}
TARGET = b"/v1/responses"


def read(**more: Any) -> ModelRequest:
    return read_request(json.dumps(ASKED | more).encode(), TARGET)


def test_a_request_is_read() -> None:
    """Usage comes unasked; a limit is never below 16."""
    keys = (b"max_output_tokens",)
    assert read() == ModelRequest("gpt-5.6", limit_keys=keys, least_limit=16)
    assert read(max_output_tokens=70, stream=True).output_limit == 70
    assert read(max_output_tokens=-1).output_limit is None
    assert read(background=True).is_background


@pytest.mark.parametrize(
    ("more", "is_open"),
    [
        ({"tools": [{"type": "function", "name": "f"}]}, False),
        ({"tools": [{"type": "web_search"}]}, True),
        ({"tools": [{"type": "mcp"}]}, True),
        ({"previous_response_id": "resp_1"}, True),
        ({"conversation": "conv_1"}, True),
        ({"prompt": {"id": "pmpt_1"}}, True),
        ({"input": [{"content": [{"type": "input_file", "file_id": "file_1"}]}]}, True),
        ({"previous_response_id": None}, False),
    ],
)
def test_whether_all_input_is_in_the_body(more: dict[str, Any], is_open: bool) -> None:
    """What is kept at the provider, or fetched by it, is billed too."""
    assert read(**more).is_open is is_open


def test_the_output_is_clamped() -> None:
    """A compaction knows no limit."""
    body = b'{"model":"m"}'
    for target, sent in (
        (TARGET, b'{"max_output_tokens":70,"model":"m"}'),
        (b"/v1/responses/compact?x=1", body),
    ):
        asked = read_request(body, target)
        assert edited_body(OPENAI_RESPONSES, body, asked, ask_usage=True, clamp=70) == sent


def test_what_cannot_be_budgeted_is_refused() -> None:
    """As the client's fault."""
    with pytest.raises(BadCall):
        read_request(b'{"background":"yes"}')


def test_countable_text() -> None:
    """Instructions, items and tools count; images and files do not."""
    content = [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": "data:"}]
    body = {"instructions": "Be brief.", "input": [{"role": "user", "content": content}]}
    assert countable_text(json.dumps(body).encode()) == ("user\nHi\nBe brief.", 6)
    assert countable_text(b'{"input":"Hi","tools":[{"a":1}]}') == ('Hi\n[{"a":1}]', 6)


def test_odd_answers() -> None:
    """What is no answer is none; an odd member hides no other; half a usage is none."""
    assert read_answer(b"[]") is None
    assert read_answer(b"{") is None
    odd = read_answer(b'{"output":7,"usage":{"input_tokens":1,"output_tokens":2}}')
    assert odd is not None
    usage = odd.usage_after(None)
    assert usage is not None
    assert (usage.input_total, usage.output_total) == (1, 2)
    half = read_answer(b'{"usage":{"input_tokens":1}}')
    assert half is not None
    assert half.usage_after(None) is None


def test_a_negative_part_is_not_hidden_by_a_tool() -> None:
    """The sum is not believed either."""
    counts = {"input_tokens": -5, "output_tokens": 2}
    tools = {"image_gen": {"input_tokens": 100, "output_tokens": 1}}
    answer = read_answer(json.dumps({"usage": counts, "tool_usage": tools}).encode())
    assert answer is not None
    usage = answer.usage_after(None)
    assert usage is not None
    assert not usage.is_plausible


@pytest.mark.parametrize(
    ("data", "background_id"),
    [
        (b'{"id":"resp_1","background":true,"status":"queued"}', "resp_1"),
        (b'{"type":"response.created","response":{"id":"resp_1","background":true}}', "resp_1"),
        (b'{"id":"resp_1","background":false}', ""),
        (b'{"background":true}', ""),
        (b'{"id":"tg:{other}","background":true}', ""),
        (b'{"id":"resp_1","background":true,"output":7}', "resp_1"),
    ],
)
def test_an_answer_in_the_background_is_known_by_its_id(data: bytes, background_id: str) -> None:
    """If the id may be part of a key."""
    answer = read_answer(data)
    assert answer is not None
    assert answer.background_id == background_id
