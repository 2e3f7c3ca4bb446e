"""litellm's answers as OpenAI words them."""

import json
from typing import Any

import pytest

from gateway.core.dialects.openai_chat import is_usage_only, read_answer
from gateway.translator.chat import chat_body, chat_events, usage_of

USAGE: dict[str, Any] = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "cost": 0.25,
    "prompt_tokens_details": {"cached_tokens": 2, "cache_creation_tokens": 3, "text_tokens": 7},
    "completion_tokens_details": {"reasoning_tokens": 1, "text_tokens": 4},
    "cache_read_input_tokens": 2,
}
FRAME = {"id": "x", "created": 1, "model": "m", "object": "chat.completion.chunk"}


def data(event: bytes) -> Any:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return json.loads(event[6:])


def test_usage_holds_what_the_provider_counted() -> None:
    """What litellm thinks that it cost is left out: it would be taken for a provider's charge."""
    assert usage_of({"usage": USAGE}) == {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_usage_that_nobody_reported_is_left_out(usage: Any) -> None:
    assert usage_of({"usage": usage}) is None
    assert "usage" not in chat_body({"usage": usage})


def test_cache_writes_that_are_told_are_not_replaced() -> None:
    details = {"cache_write_tokens": 4, "cache_creation_tokens": 3}
    found = usage_of({"usage": {"prompt_tokens": 9, "prompt_tokens_details": details}})
    assert found is not None
    assert found["prompt_tokens_details"] == {"cache_write_tokens": 4}


def test_a_whole_answer() -> None:
    said = {"content": "Hello", "role": "assistant", "provider_specific_fields": {"a": 1}}
    choice = {"index": 0, "message": said, "finish_reason": "stop", "extra": 1}
    answer = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE}
    body = chat_body({**answer, "vertex_ai_safety_results": []})
    message = {"role": "assistant", "content": "Hello", "refusal": None}
    assert body["choices"] == [
        {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    ]
    assert sorted(body) == ["choices", "id", "object", "usage"]


def test_what_a_chunk_says_and_its_usage_are_two_events() -> None:
    """The second is exactly the one that a worker takes out where the client did not ask."""
    choice = {"index": 0, "delta": {"content": "Hi", "provider_specific_fields": None}}
    events = list(chat_events({**FRAME, "choices": [choice], "usage": USAGE}, with_usage=True))
    assert data(events[0])["choices"] == [
        {"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None}
    ]
    assert not is_usage_only(events[0][6:])
    assert is_usage_only(events[1][6:])
    answer = read_answer(events[1][6:])
    assert answer is not None
    usage = answer.usage_after(None)
    assert usage is not None
    assert (usage.input_total, usage.cached_read, usage.cache_write) == (9, 2, 3)
    assert (usage.output_total, usage.reasoning, usage.provider_nano_usd) == (5, 1, None)


@pytest.mark.parametrize(
    "chunk",
    [{}, {"choices": [{"index": 0, "delta": {}}]}, {"choices": [{"delta": {"tool_calls": []}}]}],
)
def test_a_chunk_that_says_nothing_is_no_event(chunk: Any) -> None:
    assert list(chat_events({**FRAME, **chunk}, with_usage=True)) == []


def test_usage_is_shown_to_who_asked() -> None:
    assert list(chat_events({**FRAME, "usage": USAGE}, with_usage=False)) == []
