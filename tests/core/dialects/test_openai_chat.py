"""Chat completions: what is read of requests and answers, and the bytes of an edited body."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.dialects.openai_chat import (
    OPENAI_CHAT,
    ChatAnswer,
    countable_text,
    is_usage_only,
    read_answer,
    read_request,
)
from gateway.core.dialects.wire_format import ModelRequest, edited_body
from gateway.core.errors import BadCall
from gateway.core.usage import Modalities, Usage

COMPLETION_KEY = b"max_completion_tokens"
NOTHING_ASKED = ModelRequest("", False, None, 1, (COMPLETION_KEY,), None)


def edited(body: bytes, *, ask_usage: bool = False, clamp: int | None = None) -> bytes:
    return edited_body(OPENAI_CHAT, body, read_request(body), ask_usage=ask_usage, clamp=clamp)


def reported(answer: ChatAnswer | None) -> Usage | None:
    """Return the usage that an answer reports, if it can be true."""
    assert answer is not None
    usage = answer.usage_after(None)
    return usage if usage is None or usage.is_plausible else None


def usage(**counts: Any) -> Usage | None:
    return reported(read_answer(json.dumps({"usage": counts}).encode()))


# Requests -------------------------------------------------------------------------------------


def test_a_request_is_read() -> None:
    """Model, stream, usage wish, ceiling and choices are what a budget needs."""
    body = (
        b'{"model":"gpt-4o","messages":[],"stream":true,"n":3,"max_completion_tokens":50,'
        b'"stream_options":{"include_usage":true,"x":1}}'
    )
    assert read_request(body) == ModelRequest("gpt-4o", True, 50, 3, (COMPLETION_KEY,), None)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"model":null,"stream":null,"n":null,"max_tokens":null,"stream_options":null}',
        b'{"stream":false,"n":0,"temperature":1e999,"user":"\xff"}',
        b' {"n":-1} ',
    ],
)
def test_what_is_absent_or_null_is_not_asked_for(body: bytes) -> None:
    """Null is as good as absent, and oddities of members that cost nothing do not matter."""
    assert read_request(body) == NOTHING_ASKED


@pytest.mark.parametrize(
    ("limits", "keys", "limit"),
    [
        (b'"max_tokens":7', (b"max_tokens",), 7),
        (b'"max_completion_tokens":8', (COMPLETION_KEY,), 8),
        (b'"max_tokens":7,"max_completion_tokens":8', (COMPLETION_KEY, b"max_tokens"), 8),
        (b'"max_tokens":900,"max_completion_tokens":8', (COMPLETION_KEY, b"max_tokens"), 900),
        (b'"max_tokens":null,"max_completion_tokens":8', (COMPLETION_KEY,), 8),
        (b'"max_tokens":0', (b"max_tokens",), 0),
        (b'"max_tokens":-1', (b"max_tokens",), None),
        (b'"max_tokens":-1,"max_completion_tokens":8', (COMPLETION_KEY, b"max_tokens"), None),
        (b'"max_tokens":1000000000', (b"max_tokens",), 10**9),
    ],
)
def test_the_output_limit(limits: bytes, keys: tuple[bytes, ...], limit: int | None) -> None:
    """Of two the larger counts, for a server may know only that one; -1 is no limit."""
    request = read_request(b"{%b}" % limits)
    assert (request.limit_keys, request.output_limit) == (keys, limit)


@pytest.mark.parametrize(
    ("options", "asks"),
    [
        (b"{}", False),
        (b'{"include_usage":false}', False),
        (b'{"include_usage":null}', False),
        (b'{"include_obfuscation":false}', False),
        (b'{"include_usage":true}', True),
    ],
)
def test_whether_a_client_asks_for_usage(options: bytes, asks: bool) -> None:
    """Only a true `include_usage` does."""
    request = read_request(b'{"stream":true,"stream_options":%b}' % options)
    assert (request.usage_wish is None) is asks
    assert read_request(b'{"stream_options":%b}' % options).usage_wish is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"model":"\xff"}',
        b'{"model":"\\ud800"}',
        b'{"messages":"\\ud800"}',
        b'{"model":7}',
        b'{"stream":"true"}',
        b'{"stream":1}',
        b'{"n":"2"}',
        b'{"n":true}',
        b'{"n":1.5}',
        b'{"max_tokens":1e3}',
        b'{"max_tokens":NaN}',
        b'{"stream_options":[]}',
        b'{"stream_options":true}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"max_tokens":1000000001}',
        b'{"max_completion_tokens":1' + b"0" * 40 + b"}",
        b'{"n":10001}',
        b'{"model":"%b"}' % (b"m" * 257),
        b'{"model":"a","model":"b"}',
        b'{"max_tokens":1,"\\u006dax_tokens":2}',
        b'{"Stream":true}',
    ],
)
def test_what_cannot_be_budgeted_is_refused(body: bytes) -> None:
    """A body that is unreadable, ambiguous or absurd is the client's fault; nothing else raises."""
    with pytest.raises(BadCall) as caught:
        read_request(body)
    assert caught.value.code == "invalid_body"
    assert len(caught.value.message) < 300


# Edits ----------------------------------------------------------------------------------------

STREAM = (
    b'{"stream":true,"messages":[{"role":"user","content":"\\"stream_options\\": \xc3\xa9"}]%b}'
)
ASKING = b'{"stream_options":{"include_usage":true},' + STREAM[1:]


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (STREAM % b"", ASKING % b""),
        (STREAM % b" ", ASKING % b" "),
        (
            STREAM % b', "stream_options" : null ',
            STREAM % b', "stream_options" : {"include_usage":true} ',
        ),
        (STREAM % b',"stream_options":{}', STREAM % b',"stream_options":{"include_usage":true}'),
        (
            STREAM % b',"stream_options":{ "include_usage": false}',
            STREAM % b',"stream_options":{"include_usage":true}',
        ),
        (
            STREAM % b',"stream_options":{"include_obfuscation":false,"x":[1]},"y":2',
            STREAM
            % b',"stream_options":{"include_obfuscation":false,"x":[1],"include_usage":true},"y":2',
        ),
        (
            STREAM % b',"\\u0073tream_options":{"x":123456789012345678901234567890}',
            STREAM
            % b',"\\u0073tream_options":{"x":123456789012345678901234567890,"include_usage":true}',
        ),
    ],
)
def test_usage_is_asked_for(body: bytes, sent: bytes) -> None:
    """In a stream that does not ask for it: spliced in, the client's options and bytes kept."""
    assert edited(body, ask_usage=True) == sent
    assert edited(body) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[]}',
        b'{"stream":false,"stream_options":{}}',
        STREAM % b',"stream_options":{"include_usage":true}',
        STREAM % b',"stream_options":{"x":1,"include_usage":true}',
    ],
)
def test_usage_is_not_asked_for_twice_or_without_a_stream(body: bytes) -> None:
    """Then the body goes as it came."""
    assert edited(body, ask_usage=True) == body


@pytest.mark.parametrize(
    ("body", "clamp", "sent"),
    [
        (b'{"a":1}', 500, b'{"max_completion_tokens":500,"a":1}'),
        (b'{"max_tokens" : 900 }', 500, b'{"max_tokens" : 500 }'),
        (b'{"max_tokens":null}', 500, b'{"max_completion_tokens":500,"max_tokens":null}'),
        (b'{"max_completion_tokens":-1}', 500, b'{"max_completion_tokens":500}'),
        (
            b'{"max_completion_tokens":9,"max_tokens":900}',
            500,
            b'{"max_completion_tokens":500,"max_tokens":500}',
        ),
        (b'{"n":3,"max_tokens":900}', 1000, b'{"n":3,"max_tokens":333}'),
        (b'{"n":9,"max_tokens":900}', 5, b'{"n":9,"max_tokens":1}'),
    ],
)
def test_the_output_is_clamped(body: bytes, clamp: int, sent: bytes) -> None:
    """Every limit that a server may heed is lowered, shared among the choices, never to 0."""
    assert edited(body, clamp=clamp) == sent


def test_both_edits_at_once() -> None:
    """Asking for usage and clamping leave all else byte by byte."""
    body = b'{ "stream":true, "max_tokens":9, "x":[1,  2] }'
    assert edited(body, ask_usage=True, clamp=5) == (
        b'{"stream_options":{"include_usage":true}, "stream":true, "max_tokens":5, "x":[1,  2] }'
    )


# Answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": {"content": "a", "refusal": None}}, "a"),
        ({"delta": {"content": None, "refusal": "no"}}, "no"),
        ({"delta": {"content": "a", "reasoning_content": "b"}}, "ab"),
        ({"delta": {"reasoning": "b"}}, "b"),
        ({"delta": {"reasoning": "b", "reasoning_content": "b"}}, "b"),
        ({"message": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}, "f{}"),
        ({"delta": {"tool_calls": [{"id": "1"}, {"function": {"arguments": "x"}}]}}, "x"),
        ({"message": {"function_call": {"name": "f", "arguments": "x"}}}, "fx"),
        ({"message": {"content": [{"type": "text", "text": "a"}, "b", 7]}}, "ab"),
        ({"delta": {"content": [{"thinking": [{"text": "t"}]}, {"content": "c"}]}}, "tc"),
        ({"delta": {"content": 5}}, ""),
        ({"delta": {}}, ""),
        ({"delta": None, "message": None}, ""),
        ({"text": "legacy"}, "legacy"),
    ],
)
def test_generated_text(choice: dict[str, Any], text: str) -> None:
    """Content, reasoning once, refusal, names and arguments of tools; also where it is in parts."""
    answer = read_answer(json.dumps({"choices": [choice]}).encode())
    assert answer is not None
    assert answer.text() == text


def test_an_answer_without_choices_has_no_text() -> None:
    """Nothing is read into an error."""
    answer = read_answer(b'{"error":{"message":"x"}}')
    assert answer is not None
    assert (answer.text(), answer.error is not None) == ("", True)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"1", b'"usage"', b"{", b"{}x", b"\xff"])
def test_what_is_no_answer(data: bytes) -> None:
    """Anything but a JSON object is none."""
    assert read_answer(data) is None


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": 7},
        {"choices": [7]},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"tool_calls": {}}}]},
        {"model": 7},
        {"model": ["m"]},
    ],
)
def test_an_odd_member_hides_no_usage(odd: dict[str, Any]) -> None:
    """One member of another type takes only itself out."""
    data = {"usage": {"prompt_tokens": 9, "completion_tokens": 2}, **odd}
    answer = read_answer(json.dumps(data).encode())
    assert answer is not None
    assert reported(answer) == Usage(input_total=9, output_total=2)
    assert answer.text() == ""


def test_an_odd_usage_hides_no_text_and_no_error() -> None:
    """And the other way round."""
    answer = read_answer(
        b'{"model":"m","usage":[1],"error":"x","choices":[{"delta":{"content":"abc"}}]}'
    )
    assert answer is not None
    assert (answer.text(), answer.model, answer.usage) == ("abc", "m", None)
    assert answer.error is not None


def test_nesting_that_cannot_be_converted_takes_only_itself_out() -> None:
    """A text nested too deep to be walked is none, and the usage beside it counts."""
    deep: object = "x"
    for _ in range(400):
        deep = [deep]
    data = {"choices": deep, "usage": {"prompt_tokens": 1.0, "completion_tokens": 1}}
    answer = read_answer(json.dumps(data).encode())
    assert answer is not None
    assert reported(answer) == Usage(input_total=1, output_total=1)


# Usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reported", "read"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, Usage(9, 0, 0, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 40},
                "completion_tokens_details": {
                    "reasoning_tokens": 20,
                    "rejected_prediction_tokens": 5,
                },
            },
            Usage(100, 60, 40, 20, 20),
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 1,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
            Usage(5, 0, 0, 1),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8},
            Usage(9, 8, 0, 1),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_cache_hit_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 7},
            },
            Usage(9, 7, 0, 1),
        ),
        # xAI: reasoning beside the completion. Gemini: thoughts only in the total.
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "total_tokens": 42,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(10, 0, 0, 32, 30),
        ),
        (
            {"prompt_tokens": 20, "completion_tokens": 151, "total_tokens": 553},
            Usage(20, 0, 0, 533),
        ),
        # A total that is too small takes nothing away.
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 0}, Usage(9, 0, 0, 2)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": -5}, Usage(9, 0, 0, 2)),
        ({"prompt_tokens": 10**9, "completion_tokens": 1}, Usage(10**9, 0, 0, 1)),
    ],
)
def test_usage_is_read(reported: dict[str, Any], read: Usage) -> None:
    """Details are subsets of the totals, and each token counts once."""
    assert usage(**reported) == read


DETAILS = "prompt_tokens_details"


@pytest.mark.parametrize(
    "reported",
    [
        {},
        {"prompt_tokens": 9},
        {"completion_tokens": 2},
        {"prompt_tokens": None, "completion_tokens": 2},
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": 9, "completion_tokens": -1},
        {"prompt_tokens": 9, "completion_tokens": -1, "total_tokens": 20},
        {"prompt_tokens": -9, "completion_tokens": 2, "total_tokens": 20},
        {"prompt_tokens": 9, "completion_tokens": 2, DETAILS: {"cached_tokens": 10}},
        {"prompt_tokens": 9, "completion_tokens": 2, DETAILS: {"cached_tokens": -1}},
        {"prompt_tokens": 9, "completion_tokens": 2, DETAILS: {"cache_write_tokens": -1}},
        {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            DETAILS: {"cached_tokens": 5, "cache_write_tokens": 5},
        },
        {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "completion_tokens_details": {"reasoning_tokens": -3},
        },
        {"prompt_tokens": 10**9 + 1, "completion_tokens": 2},
        {"prompt_tokens": 9, "completion_tokens": 10**30},
        {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 10**12},
        {"prompt_tokens": "many", "completion_tokens": 2},
        {"prompt_tokens": 9.5, "completion_tokens": 2},
        {"prompt_tokens": [9], "completion_tokens": 2},
    ],
)
def test_half_a_usage_and_nonsense_are_none(reported: dict[str, Any]) -> None:
    """Then an estimate is charged: a negative or absurd count is never believed."""
    assert usage(**reported) is None


def test_audio_and_images_are_told_apart() -> None:
    """They have prices of their own."""
    kinds = Modalities(audio_input=30, audio_output=6, image_input=9)
    assert usage(
        prompt_tokens=50,
        completion_tokens=8,
        prompt_tokens_details={"audio_tokens": 30, "image_tokens": 9},
        completion_tokens_details={"audio_tokens": 6},
    ) == Usage(50, output_total=8, modalities=kinds)


def test_no_usage() -> None:
    """An answer that reports none has none."""
    assert reported(msgspec.convert({}, type(read_answer(b"{}")))) is None


USAGE_ONLY: dict[str, Any] = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [],
    "usage": {"prompt_tokens": 1},
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system_fingerprint": "fp", "service_tier": "default", "obfuscation": "x"},
        {"error": None, "prompt_filter_results": None},
    ],
)
def test_the_usage_event(more: dict[str, Any]) -> None:
    """No choices, a usage, and nothing else that a client could miss."""
    assert is_usage_only(json.dumps({**USAGE_ONLY, **more}).encode())


@pytest.mark.parametrize(
    "data",
    [
        {**USAGE_ONLY, "choices": [{"delta": {}}]},
        {**USAGE_ONLY, "choices": None},
        {**USAGE_ONLY, "choices": {}},
        {**USAGE_ONLY, "usage": None},
        {**USAGE_ONLY, "usage": []},
        {**USAGE_ONLY, "prompt_filter_results": []},
        {**USAGE_ONLY, "error": {"message": "x"}},
        {**USAGE_ONLY, "citations": ["x"]},
        {"choices": []},
        {"usage": {}},
        [],
        "usage",
    ],
)
def test_other_events_are_not_the_usage_event(data: object) -> None:
    """Azure's frames with empty choices, usage beside text or other payload: all pass."""
    assert not is_usage_only(json.dumps(data).encode())


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":"\xff"}', b"[" * 100_000])
def test_what_is_no_json_is_no_usage_event(data: bytes) -> None:
    """And raises nothing."""
    assert not is_usage_only(data)


# Text to count --------------------------------------------------------------------------------


def test_countable_text_of_a_conversation() -> None:
    """Every text that is billed is there; 3 tokens a message, 1 for a name, 3 to prime."""
    body = {
        "model": "not counted",
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "name": "bob", "content": [
                {"type": "text", "text": "T"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_data": "data:x;base64,AAAA"}},
                "plain",
            ]},
            {"role": "assistant", "content": None, "reasoning_content": "R",
             "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{\"é\":1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "out"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "response_format": {"type": "json_object"},
        "metadata": {"note": "not counted"},
    }  # fmt: skip
    text, overhead = countable_text(json.dumps(body).encode())
    assert overhead == 3 + 4 * 3 + 1
    assert text.split("\n") == [
        "system",
        "S",
        "user",
        "bob",
        "T",
        "plain",
        "assistant",
        "R",
        '[{"id":"c1","function":{"name":"f","arguments":"{\\"é\\":1}"}}]',
        "tool",
        "c1",
        "out",
        '[{"type":"function","function":{"name":"f"}}]',
        '{"type":"json_object"}',
    ]


@pytest.mark.parametrize(
    ("body", "text", "overhead"),
    [
        (b"{}", "", 3),
        (b'{"messages":null}', "", 3),
        (b'{"messages":[]}', "", 3),
        (b'{"messages":"x"}', "x", 3),
        (b'{"messages":{"role":"user","content":"x"}}', "user\nx", 6),
        (b'{"messages":["a",["b"],null,5]}', 'a\n["b"]\n5', 3),
        (b'{"messages":[{"content":{"a":1}},{"content":7}]}', '{"a":1}\n7', 9),
        (b'{"messages":[{"content":[["x"],{"type":"text","text":{"y":1}}]}]}', '["x"]\n{"y":1}', 6),
        (b'{"tools":"x","functions":[{"name":"f"}]}', 'x\n[{"name":"f"}]', 3),
        (b"[]", "[]", 3),
        (b"", "", 3),
        (b'{"a":"\xff"}', '{"a":"\N{REPLACEMENT CHARACTER}"}', 3),
        (b'{"a":1e999}', '{"a":1e999}', 3),
    ],
)
def test_countable_text_of_odd_bodies(body: bytes, text: str, overhead: int) -> None:
    """Odd types count as their JSON, and what cannot be read counts as it stands."""
    assert countable_text(body) == (text, overhead)


def test_a_body_nested_without_end_counts_as_it_stands() -> None:
    """No depth raises."""
    body = b'{"messages":' + b"[" * 100_000
    assert countable_text(body) == (body.decode(), 3)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["messages", "role", "content", "name", "text", "tools", "n", "model", "stream",
             "stream_options", "max_tokens", "max_completion_tokens", "include_usage"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=200, derandomize=True, deadline=None)
@given(ANY)
def test_odd_requests_are_read_or_refused(body: object) -> None:
    """Whatever JSON is sent: BadCall or facts, and its text can be counted."""
    data = json.dumps(body).encode()
    countable_text(data)
    try:
        request = read_request(data)
    except BadCall:
        return
    sent = edited_body(OPENAI_CHAT, data, request, ask_usage=True, clamp=7)
    again = read_request(sent)
    assert again.usage_wish is None
    assert again.output_limit == max(1, 7 // request.choices)
