"""Gemini: what is read of requests; answers have golden files (`test_golden.py`)."""

import json
from typing import Any

import pytest

from gateway.core.dialects.gemini import (
    GEMINI,
    countable_text,
    read_answer,
    read_request,
    read_stream_request,
)
from gateway.core.dialects.wire_format import ModelRequest, edited_body
from gateway.core.errors import BadCall

TARGET = b"/v1beta/models/gemini-2.5-pro:generateContent?key=x"


def read(**body: Any) -> ModelRequest:
    return read_request(json.dumps(body).encode(), TARGET)


def test_a_request_is_read() -> None:
    """The model stands in the path, and whether it is a stream."""
    assert read() == ModelRequest("gemini-2.5-pro", least_limit=1)
    assert read_stream_request(b"{}", b"/v1/models/g%3AstreamGenerateContent/").model == "g"
    assert read_stream_request(b"{}", TARGET).stream


@pytest.mark.parametrize(
    ("config", "limit", "choices", "least"),
    [
        ({"maxOutputTokens": 50}, 50, 1, 1),
        ({"max_output_tokens": 50, "candidateCount": 3}, 50, 3, 1),
        ({"maxOutputTokens": 50, "max_output_tokens": 60, "candidate_count": 2}, 60, 2, 1),
        ({"maxOutputTokens": 50, "thinkingConfig": {"thinkingBudget": 1_000}}, 1_050, 1, 1_001),
        ({"maxOutputTokens": 50, "thinking_config": {"thinking_budget": -1}}, 50, 1, 1),
        ({"maxOutputTokens": 0}, None, 1, 1),
        ({"temperature": 1}, None, 1, 1),
    ],
)
def test_what_bounds_the_output(
    config: dict[str, Any], limit: int | None, choices: int, least: int
) -> None:
    """In either spelling; thoughts come on top."""
    for name in ("generationConfig", "generation_config"):
        request = read(**{name: config})
        assert (request.output_limit, request.choices) == (limit, choices)
        assert request.least_limit == least


@pytest.mark.parametrize(
    ("body", "is_open"),
    [
        ({"tools": [{"functionDeclarations": []}]}, False),
        ({"tools": {"function_declarations": []}}, False),
        ({"tools": [{"googleSearch": {}}]}, True),
        ({"cachedContent": "cachedContents/1"}, True),
        ({"cached_content": "cachedContents/1"}, True),
    ],
)
def test_whether_all_input_is_in_the_body(body: dict[str, Any], is_open: bool) -> None:
    """Tools that Google runs, and caches, bring in more."""
    assert read(**body).is_open is is_open


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"generationConfig":{},"generation_config":{}}',
        b'{"generationConfig":{"maxOutputTokens":"1"}}',
        b'{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":2}}',
        b'{"generationConfig":{"maxOutputTokens":10000000000}}',
        b'{"generationConfig":{"candidateCount":10001}}',
    ],
)
def test_what_cannot_be_budgeted_is_refused(body: bytes) -> None:
    """As the client's fault."""
    with pytest.raises(BadCall) as caught:
        read_request(body, TARGET)
    assert caught.value.code == "invalid_body"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"{}", b'{"generationConfig":{"maxOutputTokens":700}}'),
        (b'{"generationConfig":null}', b'{"generationConfig":{"maxOutputTokens":700}}'),
        (
            b'{"generationConfig": {"maxOutputTokens": 900, "temperature":1.50}}',
            b'{"generationConfig": {"maxOutputTokens": 700, "temperature":1.50}}',
        ),
        (
            b'{"generation_config":{"max_output_tokens":900}}',
            b'{"generation_config":{"max_output_tokens":700}}',
        ),
        (
            b'{"generationConfig":{"thinkingConfig":{"thinkingBudget":500}}}',
            b'{"generationConfig":{"maxOutputTokens":200,"thinkingConfig":{"thinkingBudget":500}}}',
        ),
        (
            b'{"generationConfig":{"candidateCount":2}}',
            b'{"generationConfig":{"maxOutputTokens":350,"candidateCount":2}}',
        ),
    ],
)
def test_the_output_is_clamped(body: bytes, sent: bytes) -> None:
    """Inside the settings, in the spelling that is there; no other byte changes."""
    asked = read_request(body, TARGET)
    assert edited_body(GEMINI, body, asked, ask_usage=True, clamp=700) == sent


def test_countable_text() -> None:
    """Contents, the system's instruction and tools count; pictures do not."""
    picture = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    body = {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "Hi"}, picture]}],
    }
    assert countable_text(json.dumps(body).encode()) == ("user\nHi\nBe brief.", 6)


def test_odd_answers() -> None:
    """What is no answer is none; an odd member hides no other; half a usage is none."""
    assert read_answer(b"[7]") is None
    assert read_answer(b"{") is None
    odd = read_answer(b'{"candidates":7,"usageMetadata":{"promptTokenCount":1}}')
    assert odd is not None
    usage = odd.usage_after(None)
    assert usage is not None
    assert usage.input_total == 1
    half = read_answer(b'{"usageMetadata":{"totalTokenCount":1}}')
    assert half is not None
    assert half.usage_after(None) is None
