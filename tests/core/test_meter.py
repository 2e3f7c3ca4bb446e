"""The meter: the same usage and the same bytes wherever an answer is cut; it never hurts the relay.

The golden answers stand in `tests/golden/openai_chat/<case>/`: `answer.sse` is what a provider
sends, `client.sse` what a client gets that did not ask for usage, `expected.json` what is read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import meter as meter_module
from gateway.core.dialects.openai_chat import OPENAI_CHAT, read_answer
from gateway.core.dialects.openai_responses import OPENAI_RESPONSES
from gateway.core.dialects.wire_format import Answer
from gateway.core.meter import JsonMeter, Meter, Observation, PlainMeter, StreamMeter
from gateway.core.usage import Usage

GOLDEN = Path(__file__).parent.parent / "golden" / "openai_chat"
SETTINGS = settings(max_examples=60, derandomize=True, deadline=None)


@dataclass(frozen=True)
class Case:
    name: str
    answer: bytes
    client: bytes
    usage: Usage | None
    text: str
    model: str
    error: bool


def read_case(folder: Path) -> Case:
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    usage = expected["usage"]
    return Case(
        name=folder.name,
        answer=(folder / "answer.sse").read_bytes(),
        client=(folder / "client.sse").read_bytes(),
        usage=Usage(**usage) if usage else None,
        text=expected["text"],
        model=expected["model"],
        error=expected["error"],
    )


CASES = [read_case(path.parent) for path in sorted(GOLDEN.glob("*/answer.sse"))]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def relayed(meter: Meter, pieces: list[bytes]) -> bytes:
    """Feed the pieces and the end; return all that the client would have got."""
    return b"".join(map(meter.feed, pieces)) + meter.end()


def check(case: Case, meter: StreamMeter, expected: bytes, pieces: list[bytes]) -> None:
    assert relayed(meter, pieces) == expected
    assert meter.seen.reported_usage() == case.usage
    assert "".join(meter.seen.text) == case.text
    assert meter.seen.chars == len(case.text)
    assert (meter.seen.model, meter.seen.error_seen) == (case.model, case.error)


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def text_event(text: str) -> bytes:
    return event({"choices": [{"delta": {"content": text}}]})


USAGE_EVENT = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"

# Streams --------------------------------------------------------------------------------------


@every_case
def test_whole(case: Case) -> None:
    """The usage is read, and exactly the usage event that we asked for is taken out."""
    check(case, StreamMeter(OPENAI_CHAT, hide_usage=True), case.client, [case.answer])


@every_case
def test_whole_for_a_client_that_asked(case: Case) -> None:
    """A client that asked for usage gets every byte, and the same usage is read."""
    check(case, StreamMeter(OPENAI_CHAT, hide_usage=False), case.answer, [case.answer])


@pytest.mark.repeats
@every_case
def test_cut_at_every_byte(case: Case) -> None:
    """Wherever the answer is cut in two: the same usage, the same text, the same bytes."""
    for at in range(len(case.answer) + 1):
        pieces = [case.answer[:at], case.answer[at:]]
        check(case, StreamMeter(OPENAI_CHAT, hide_usage=True), case.client, pieces)
        check(case, StreamMeter(OPENAI_CHAT, hide_usage=False), case.answer, pieces)


@every_case
def test_byte_by_byte(case: Case) -> None:
    """One byte at a time: the same again."""
    pieces = [bytes([byte]) for byte in case.answer]
    check(case, StreamMeter(OPENAI_CHAT, hide_usage=True), case.client, pieces)
    check(case, StreamMeter(OPENAI_CHAT, hide_usage=False), case.answer, pieces)


def test_the_golden_answers_are_what_they_say() -> None:
    """The files were not mended by an editor or by git: line ends and broken bytes are there."""
    answers = {case.name: case.answer for case in CASES}
    assert len(answers) > 30
    assert b"\r\n\r\n" in answers["crlf_pings"]
    assert b"\n" not in answers["cr_and_bom"]
    assert answers["cr_and_bom"].startswith(b"\xef\xbb\xbf")
    assert b"a\xff" in answers["broken_text"]


@every_case
def test_nothing_is_delayed_for_a_client_that_asked(case: Case) -> None:
    """Where nothing is hidden every byte passes at once, and the end adds none."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=False)
    for byte in case.answer:
        assert meter.feed(bytes([byte])) == bytes([byte])
    assert meter.end() == b""


def test_events_pass_as_soon_as_they_are_whole() -> None:
    """With hiding an event waits for its blank line and no longer."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    one = text_event("a")
    assert meter.feed(one[:-1]) == b""
    assert meter.feed(one[-1:] + one + b"da") == one + one
    assert meter.end() == b"da"


def test_output_is_counted_while_it_passes() -> None:
    """A heartbeat sees roughly how much came: four characters a token, rounded up."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    assert meter.seen.output_tokens_seen == 0
    meter.feed(text_event("abcd") + text_event("e"))
    assert meter.seen.output_tokens_seen == 2


def test_a_stream_ends_without_done_and_more_than_once() -> None:
    """`end` gives the rest once; a second one gives nothing and changes nothing."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    meter.feed(USAGE_EVENT + b"data: x")
    assert meter.end() == b"data: x"
    assert meter.end() == b""
    assert meter.seen.reported_usage() == Usage(input_total=5, output_total=2)


# Long events ----------------------------------------------------------------------------------

HELD = 16_384
COPIED = 1_048_576


@pytest.mark.repeats
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("piece", [1_000, 16_000, 2_000_000])
@pytest.mark.parametrize("size", [HELD - 50, HELD, HELD + 1, 100_000, COPIED + 1, 2_500_000])
def test_long_events_pass_and_the_usage_after_them_is_hidden(
    size: int, piece: int, line_end: bytes
) -> None:
    """However long an event is and however it comes, every byte passes and metering goes on."""
    long = text_event("x" * size).replace(b"\n", line_end)
    usage = USAGE_EVENT.replace(b"\n", line_end)
    stream = long + usage + long + usage + DONE
    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    for hide, expected in ((True, long + long + DONE), (False, stream)):
        meter = StreamMeter(OPENAI_CHAT, hide_usage=hide)
        assert relayed(meter, pieces) == expected
        assert meter.seen.reported_usage() == Usage(input_total=5, output_total=2)


def test_a_long_event_does_not_wait() -> None:
    """Above 16 KiB what has come of an event passes before its end."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    long = text_event("x" * 40_000)
    assert meter.feed(long[:16_384]) == b""
    assert meter.feed(long[16_384:16_385]) == long[:16_385]
    assert meter.feed(long[16_385:20_000]) == long[16_385:20_000]
    assert meter.feed(long[20_000:] + DONE) == long[20_000:] + DONE


def test_a_long_event_is_read_all_the_same() -> None:
    """A large tool call in one event counts, and so does a usage that comes with it."""
    tool_call = {"function": {"name": "write", "arguments": "y" * 50_000}}
    long = event(
        {
            "choices": [{"delta": {"tool_calls": [tool_call]}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 12_500},
        }
    )
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    assert relayed(meter, [long[:30_000], long[30_000:]]) == long
    assert meter.seen.chars == 50_005
    assert meter.seen.reported_usage() == Usage(input_total=7, output_total=12_500)


def test_a_usage_event_of_which_bytes_have_passed_passes_whole() -> None:
    """Half an event would break the client's stream: what began to pass passes to its end."""
    usage = event(
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "x": "y" * 20_000}}
    )
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    assert relayed(meter, [usage[:20_000], usage[20_000:]]) == usage
    assert meter.seen.reported_usage() == Usage(input_total=5, output_total=2)


def test_an_event_beyond_a_megabyte_is_not_read() -> None:
    """No copy of it is kept, and no line of it is taken for an event of its own."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    opening = b"data: " + b"x" * (COPIED + 1) + b"\n"
    assert meter.feed(opening) == opening
    assert meter.feed(USAGE_EVENT) == USAGE_EVENT
    assert meter.seen == Observation()
    assert meter.feed(USAGE_EVENT + DONE) == DONE
    assert meter.seen.reported_usage() == Usage(input_total=5, output_total=2)


def test_an_endless_event_is_not_kept() -> None:
    """Memory stays bounded on a stream that never ends an event."""
    for hide in (True, False):
        meter = StreamMeter(OPENAI_CHAT, hide_usage=hide)
        passed = sum(len(meter.feed(b"x" * 500_000)) for _ in range(20))
        assert passed == 10_000_000
        assert meter.end() == b""


def test_an_unfinished_long_event_passes_once() -> None:
    """At the end only what has not passed yet is given."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=True)
    long = b"data: " + b"x" * 20_000
    assert meter.feed(long) == long
    assert meter.feed(b"yz") == b"yz"
    assert meter.end() == b""


# Never raises ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "usage", "delta", "message", "content", "model", "error", "tool_calls",
             "function", "name", "arguments", "prompt_tokens", "completion_tokens", "total_tokens",
             "prompt_tokens_details", "cached_tokens", "text", "reasoning", "function_call"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.repeats
@settings(max_examples=150, derandomize=True, deadline=None)
@given(JSON, st.booleans())
def test_odd_answers_never_raise(answer: object, hide: bool) -> None:
    """Any JSON in any place of an answer passes, and what is read of it can be asked."""
    data = json.dumps(answer).encode()
    stream = b"data: " + data + b"\n\n"
    meters: tuple[tuple[Meter, bytes], ...] = (
        (StreamMeter(OPENAI_CHAT, hide_usage=hide), stream),
        (JsonMeter(OPENAI_CHAT), data),
    )
    for meter, passing in meters:
        assert relayed(meter, [passing]) in (passing, b"")
        meter.seen.reported_usage()
        assert meter.seen.output_tokens_seen >= 0


@pytest.mark.repeats
@SETTINGS
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_never_raises(pieces: list[bytes]) -> None:
    """Bytes of any kind pass through every meter unchanged."""
    pieces = [b"data: {", *pieces]
    for meter in (
        StreamMeter(OPENAI_CHAT, hide_usage=True),
        StreamMeter(OPENAI_CHAT, hide_usage=False),
    ):
        assert relayed(meter, pieces) == b"".join(pieces)
    assert relayed(JsonMeter(OPENAI_CHAT), pieces) == b"".join(pieces)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"choices":[],"usage":{},"x":['])
def test_nesting_without_end_never_raises(opening: bytes) -> None:
    """A hundred thousand brackets end the reading, not the relaying."""
    deep = opening + b"[" * 100_000 + b"]" * 100_000
    for data in (deep, deep + b"]}", deep + b"}"):
        stream = b"data: " + data + b"\n\n"
        assert relayed(StreamMeter(OPENAI_CHAT, hide_usage=True), [stream]) == stream
        assert relayed(JsonMeter(OPENAI_CHAT), [data]) == data


# JSON answers ---------------------------------------------------------------------------------

JSON_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi \U0001f600"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    },
    ensure_ascii=False,
    indent=1,
).encode()


@pytest.mark.repeats
@pytest.mark.parametrize("before", [b"", b"\n\n  \r\n\t", b"\xef\xbb\xbf"])
def test_a_json_answer_cut_at_every_byte(before: bytes) -> None:
    """Every byte passes at once; usage, model and text are read at the end, blank lines or not."""
    answer = before + JSON_ANSWER
    for at in range(len(answer) + 1):
        meter = JsonMeter(OPENAI_CHAT)
        assert meter.feed(answer[:at]) == answer[:at]
        assert meter.feed(answer[at:]) == answer[at:]
        assert meter.end() == b""
        assert meter.seen.reported_usage() == Usage(input_total=9, output_total=3)
        assert meter.seen.model == "gpt-4o-2024-08-06"
        assert meter.seen.text == ["Hi \U0001f600"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", False),
        (b"<html>Bad Gateway</html>", False),
        (JSON_ANSWER[:-2], False),
        (b'{"error":{"message":"no"}}', True),
        (b'{"error":null}', False),
        (b'[{"error":{"code":400}}]', False),
    ],
)
def test_json_answers_without_usage(answer: bytes, error: bool) -> None:
    """Errors, broken and foreign answers report nothing."""
    meter = JsonMeter(OPENAI_CHAT)
    assert relayed(meter, [answer]) == answer
    assert meter.seen.reported_usage() is None
    assert meter.seen.error_seen is error


def test_a_json_answer_beyond_bounds_passes_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too long for a copy is relayed, and no part of it is kept or read."""
    monkeypatch.setattr(meter_module, "_LONGEST_JSON", len(JSON_ANSWER))
    meter = JsonMeter(OPENAI_CHAT)
    assert relayed(meter, [JSON_ANSWER, b" ", b" "]) == JSON_ANSWER + b"  "
    assert meter.seen == Observation()


def test_the_plain_meter_reads_nothing() -> None:
    """An unmetered route relays every byte and reports nothing."""
    meter = PlainMeter()
    assert relayed(meter, [USAGE_EVENT, DONE]) == USAGE_EVENT + DONE
    assert meter.seen == Observation()


# What an observation reports ------------------------------------------------------------------


def answer(text: str = "", usage: tuple[int, int] | None = None) -> Answer:
    body: dict[str, object] = {"choices": [{"delta": {"content": text}}]}
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    read = read_answer(json.dumps(body).encode())
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("answers", "reported"),
    [
        ([], None),
        ([answer("a")], None),
        ([answer("", (9, 0))], (9, 0)),
        ([answer("", (0, 0))], (0, 0)),
        ([answer("a", (9, 1))], (9, 1)),
        ([answer("a"), answer("", (9, 1))], (9, 1)),
        ([answer("a", (9, 1)), answer("b", (9, 2)), answer("")], (9, 2)),
        ([answer("a", (9, 0))], None),
        ([answer("a", (0, 0))], None),
        ([answer("a", (9, 1)), answer("b")], None),
        ([answer("", (9, 1)), answer("b"), answer("", (9, 2))], (9, 2)),
        ([answer("a", (9, 5)), answer("", (9, 4))], (9, 5)),
        ([answer("a", (9, 5)), answer("b"), answer("", (9, 4))], None),
    ],
)
def test_which_usage_is_reported(answers: list[Answer], reported: tuple[int, int] | None) -> None:
    """The last that does not fall, if it speaks of all text and not of none beside some."""
    seen = Observation()
    for each in answers:
        seen.note(each)
    expected = None if reported is None else Usage(reported[0], output_total=reported[1])
    assert seen.reported_usage() == expected


# Where an answer may be cut -----------------------------------------------------------------------


@pytest.mark.parametrize("hide", [False, True])
def test_what_has_passed_of_an_unfinished_event(*, hide: bool) -> None:
    """While events are held back until they are whole, a client never has part of one."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=hide)
    assert meter.unfinished == 0
    meter.feed(b'data: {"choices":[]}\n\ndata: {')
    assert meter.unfinished == (0 if hide else 7)
    meter.feed(b'"x"')
    assert meter.unfinished == (0 if hide else 10)
    meter.feed(b":1}\n\n")
    assert meter.unfinished == 0


@pytest.mark.parametrize("hide", [False, True])
def test_a_long_unfinished_event_has_passed(*, hide: bool) -> None:
    """Of one that is too long to be read the end is awaited."""
    meter = StreamMeter(OPENAI_CHAT, hide_usage=hide)
    meter.feed(b"data: " + b"x" * 20_000)
    assert meter.unfinished == 20_006
    meter.feed(b"x" * 2_000_000)
    assert meter.unfinished > 1 << 60
    meter.feed(b"\n\n")
    assert meter.unfinished == 0


def test_what_has_passed_of_an_unfinished_line() -> None:
    """However the lines are cut."""
    meter = JsonMeter(OPENAI_CHAT)
    assert meter.unfinished == 0
    for data, unfinished in ((b"{}\n{", 1), (b'"a"', 4), (b":1}\n", 0), (b"\n{}", 2)):
        meter.feed(data)
        assert meter.unfinished == unfinished
    assert PlainMeter().unfinished > 1 << 60


def test_of_an_answer_too_long_to_copy_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never cut."""
    monkeypatch.setattr(meter_module, "_LONGEST_JSON", 4)
    meter = JsonMeter(OPENAI_CHAT)
    meter.feed(b"{}\n")
    assert meter.unfinished == 0
    meter.feed(b"{}\n")
    assert meter.unfinished > 1 << 60


def test_the_number_of_the_event_that_would_follow() -> None:
    """One more than the last; 0 where events have none."""
    meter = StreamMeter(OPENAI_RESPONSES, hide_usage=False)
    assert meter.next_number == 0
    meter.feed(b'data: {"type":"response.created","sequence_number":0,"response":{"id":"r"}}\n\n')
    assert (meter.next_number, meter.seen.answer_id) == (1, "r")
    meter.feed(b'data: {"type":"x","sequence_number": 41,"delta":"a"}\n\ndata: {"sequence_n')
    assert (meter.next_number, meter.seen.answer_id) == (42, "r")
