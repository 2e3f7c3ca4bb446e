"""Service tier, speed and place, as requests ask for them and answers state them."""

import json
from typing import Any

import pytest

from gateway.core.dialects.anthropic_messages import ANTHROPIC_MESSAGES
from gateway.core.dialects.openai_chat import OPENAI_CHAT
from gateway.core.dialects.openai_responses import OPENAI_RESPONSES
from gateway.core.dialects.wire_format import WireFormat
from gateway.core.usage import Usage

CHAT = {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}
RESPONSES = {"usage": {"input_tokens": 5, "output_tokens": 2}}


def usage_of(wire: WireFormat, said: dict[str, Any], earlier: Usage | None = None) -> Usage:
    answer = wire.read_answer(json.dumps(said).encode())
    assert answer is not None
    usage = answer.usage_after(earlier)
    assert usage is not None
    return usage


@pytest.mark.parametrize(
    ("tier", "terms"),
    [
        ("flex", "flex"),
        ("priority", "priority"),
        ("fast", "priority"),
        ("default", ""),
        ("scale", ""),
        (None, ""),
        (["flex"], ""),
    ],
)
def test_openai_s_tier_is_read_from_request_and_answer(tier: object, terms: str) -> None:
    said = {"service_tier": tier}
    assert usage_of(OPENAI_CHAT, {**CHAT, **said}).terms == terms
    assert usage_of(OPENAI_CHAT, {**CHAT, **said, "choices": 1}).terms == terms
    assert usage_of(OPENAI_RESPONSES, {**RESPONSES, **said}).terms == terms
    assert usage_of(OPENAI_RESPONSES, {**RESPONSES, **said, "output": 1}).terms == terms
    assert usage_of(OPENAI_RESPONSES, {"response": {**RESPONSES, **said}}).terms == terms
    body = json.dumps({"model": "m", **said}).encode()
    for wire in (OPENAI_CHAT, OPENAI_RESPONSES):
        assert wire.read(body, b"/v1/x").pieces.terms == terms


@pytest.mark.parametrize(
    ("said", "terms"),
    [
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "global"}, ""),
        ({"service_tier": "batch"}, ""),
        ({"service_tier": "priority", "speed": "fast", "inference_geo": "us"}, "priority fast us"),
    ],
)
def test_claude_s_terms_stay_from_a_stream_s_start_to_its_end(
    said: dict[str, str], terms: str
) -> None:
    counts = {"input_tokens": 5, "output_tokens": 2}
    start = usage_of(ANTHROPIC_MESSAGES, {"message": {"usage": {**counts, **said}}})
    assert start.terms == terms
    assert usage_of(ANTHROPIC_MESSAGES, {"usage": {"output_tokens": 9}}, start).terms == terms
    summed = {"usage": {**counts, **said, "iterations": [counts, counts]}}
    assert usage_of(ANTHROPIC_MESSAGES, summed).terms == terms


def test_claude_s_speed_and_place_are_asked_for() -> None:
    body = b'{"model":"m","max_tokens":1,"speed":"fast","inference_geo":"us"}'
    assert ANTHROPIC_MESSAGES.read(body, b"").pieces == Usage(terms="fast us")
    assert ANTHROPIC_MESSAGES.read(b'{"model":"m","max_tokens":1}', b"").pieces == Usage()
