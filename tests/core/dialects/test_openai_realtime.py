"""Realtime: what a `response.create` asks for, and what its events report."""

import json
from typing import Any

import pytest

from gateway.core.dialects.openai_realtime import OPENAI_REALTIME
from gateway.core.dialects.wire_format import edited_body
from gateway.core.errors import BadCall
from gateway.core.usage import Modalities, Usage


def said(**event: Any) -> bytes:
    return json.dumps(event).encode()


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b'{"type":"response.create"}', None),
        (b'{"response":null}', None),
        (b'{"response":{"max_output_tokens":7}}', 7),
        (b'{"response":{"max_output_tokens":"inf"}}', None),
        (b'{"response":{"max_output_tokens":-1}}', None),
    ],
)
def test_the_output_limit_is_read(body: bytes, limit: int | None) -> None:
    asked = OPENAI_REALTIME.read(body, b"")
    assert asked.output_limit == limit
    assert asked.is_open
    assert asked.stream


@pytest.mark.parametrize(
    "body",
    [
        b"no",
        b'{"response":{"max_output_tokens":1,"max_output_tokens":9}}',
        b'{"response":{},"response":{}}',
        b'{"response":{"max_output_tokens":99999999999}}',
    ],
)
def test_what_could_be_read_otherwise_is_refused(body: bytes) -> None:
    with pytest.raises(BadCall):
        OPENAI_REALTIME.read(body, b"")


@pytest.mark.parametrize(
    ("body", "clamped"),
    [
        (b'{"type":"x"}', {"type": "x", "response": {"max_output_tokens": 5}}),
        (b'{"response":{"a":1}}', {"response": {"a": 1, "max_output_tokens": 5}}),
        (b'{"response":{"max_output_tokens":"inf"}}', {"response": {"max_output_tokens": 5}}),
    ],
)
def test_a_clamp_goes_into_the_response(body: bytes, clamped: Any) -> None:
    asked = OPENAI_REALTIME.read(body, b"")
    edited = edited_body(OPENAI_REALTIME, body, asked, ask_usage=False, clamp=5)
    assert json.loads(edited) == clamped


def test_usage_is_the_whole_responses() -> None:
    usage = {"input_tokens": 9, "output_tokens": 4, "input_token_details": {"cached_tokens": 2}}
    answer = OPENAI_REALTIME.read_answer(
        said(type="response.done", response={"status": "cancelled", "usage": usage})
    )
    assert answer is not None
    assert answer.usage_after(None) == Usage(input_total=9, cached_read=2, output_total=4)
    assert answer.error is None


def test_a_transcription_reports_its_own() -> None:
    kind = "conversation.item.input_audio_transcription.completed"
    usage = {"type": "tokens", "input_tokens": 3, "output_tokens": 1}
    answer = OPENAI_REALTIME.read_answer(said(type=kind, transcript="hi", usage=usage))
    assert answer is not None
    assert answer.usage_after(None) == Usage(input_total=3, output_total=1)
    assert answer.text() == "hi"


def test_seconds_are_no_tokens() -> None:
    answer = OPENAI_REALTIME.read_answer(said(type="x", usage={"type": "duration", "seconds": 2}))
    assert answer is not None
    assert answer.usage_after(None) is None


def test_text_counts_and_audio_does_not() -> None:
    for kind, text in (("response.output_text.delta", "a"), ("response.output_audio.delta", "")):
        answer = OPENAI_REALTIME.read_answer(said(type=kind, delta="a"))
        assert answer is not None
        assert answer.text() == text


def test_a_failed_response_says_so() -> None:
    answer = OPENAI_REALTIME.read_answer(said(type="response.done", response={"status": "failed"}))
    assert answer is not None
    assert answer.error
    assert answer.usage_after(None) is None


def test_what_is_no_event_is_not_read() -> None:
    assert OPENAI_REALTIME.read_answer(b"[1]") is None
    assert OPENAI_REALTIME.countable_text(b"{}") == ("", 0)


def test_audio_and_images_are_told_apart() -> None:
    """They cost more than text, and less when they were cached."""
    usage = {
        "input_tokens": 90,
        "output_tokens": 40,
        "input_token_details": {
            "cached_tokens": 20,
            "audio_tokens": 50,
            "image_tokens": 10,
            "cached_tokens_details": {"audio_tokens": 15, "image_tokens": 5},
        },
        "output_token_details": {"audio_tokens": 30, "text_tokens": 10},
    }
    answer = OPENAI_REALTIME.read_answer(said(type="response.done", response={"usage": usage}))
    assert answer is not None
    kinds = Modalities(50, 15, 30, 10, 5, 0)
    assert answer.usage_after(None) == Usage(90, 20, output_total=40, modalities=kinds)
