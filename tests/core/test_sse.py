"""The event splitter: every byte kept, whatever the line ends and wherever the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.sse import EventSplitter, event_data

LINE_ENDS = (b"\n", b"\r", b"\r\n")
SETTINGS = settings(max_examples=60, derandomize=True, deadline=None)


def split(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """Feed the pieces; return the events and what was left at the end."""
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    assert splitter.held_back == len(splitter.held(0))
    return events, splitter.flush()


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(point % (len(data) + 1) for point in points)})
    return [data[start:end] for start, end in pairwise(edges)]


# Text of a line: anything but its ends, among it what only *looks* like a line end.
TEXT = st.text(st.sampled_from("ab:{} \u2028\u0085\x0b\x0cé\U0001f600"), max_size=6)
LINE = st.builds(
    lambda name, text: (name + text).encode(),
    st.sampled_from(["data: ", "data:", "data", ": ", "event: ", "id:", "x"]),
    TEXT,
)


EVENTS = st.lists(st.lists(LINE, min_size=1, max_size=4), max_size=6)


def data_of(lines: list[bytes]) -> bytes:
    """Say what the data of an event with these lines is, the slow way."""
    return b"\n".join(
        line[5:].removeprefix(b" ")
        for line in lines
        if line.startswith(b"data:") or line == b"data"
    )


@pytest.mark.repeats
@SETTINGS
@given(EVENTS, st.data(), st.lists(st.integers(0, 400), max_size=8))
def test_any_cut_gives_the_same_events(
    written: list[list[bytes]], draw: st.DataObject, points: list[int]
) -> None:
    """For any events, mixed line ends and cuts: the same events come out, and every byte."""
    line_end = st.sampled_from(LINE_ENDS)
    whole = b"".join(line + draw.draw(line_end) for lines in written for line in [*lines, b""])
    events, rest = split([whole])
    assert b"".join(events) + rest == whole
    assert split(cut(whole, points)) == (events, rest)
    assert split([whole[at : at + 1] for at in range(len(whole))]) == (events, rest)


@pytest.mark.repeats
@SETTINGS
@given(EVENTS, st.sampled_from(LINE_ENDS), st.lists(st.integers(0, 400), max_size=8))
def test_events_are_what_was_written(
    written: list[list[bytes]], line_end: bytes, points: list[int]
) -> None:
    """With one kind of line end, the events and their data are exactly those that were written."""
    expected = [b"".join(line + line_end for line in [*lines, b""]) for lines in written]
    events, rest = split(cut(b"".join(expected), points))
    if rest:  # ends with CR: it could go on as CRLF
        assert line_end == b"\r"
        events.append(rest)
    assert events == expected
    assert [event_data(event) for event in events] == [data_of(lines) for lines in written]


@pytest.mark.repeats
@SETTINGS
@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_garbage_is_kept_whatever_the_cut(data: bytes, points: list[int]) -> None:
    """Bytes that are no event stream lose nothing and never raise."""
    events, rest = split([data])
    assert b"".join(events) + rest == data
    assert split(cut(data, points)) == (events, rest)
    for event in events:
        event_data(event)


NEWLINES = st.lists(st.sampled_from([b"\n", b"\r", b"a"]), max_size=14).map(b"".join)


@pytest.mark.repeats
@settings(max_examples=400, derandomize=True, deadline=None)
@given(NEWLINES)
def test_runs_of_line_ends(data: bytes) -> None:
    """Blank lines are found the same way byte by byte as at once, however they pile up."""
    assert split([bytes([byte]) for byte in data]) == split([data])


@pytest.mark.parametrize(
    ("stream", "events", "rest"),
    [
        (b"", [], b""),
        (b"data: a\n", [], b"data: a\n"),
        (b"data: a\n\n", [b"data: a\n\n"], b""),
        (b"data: a\r\n\r\nb", [b"data: a\r\n\r\n"], b"b"),
        (b"data: a\r\rb", [b"data: a\r\r"], b"b"),
        (b"data: a\r\r", [], b"data: a\r\r"),
        (b"data: a\n\r\nb", [b"data: a\n\r\n"], b"b"),
        (b"data: a\r\n\nb", [b"data: a\r\n\n"], b"b"),
        (b"data: a\n\rb", [b"data: a\n\r"], b"b"),
        (b"data: a\r\nb", [], b"data: a\r\nb"),
        (b"a\n\n\n\nb\n\n", [b"a\n\n", b"\n\n", b"b\n\n"], b""),
    ],
)
def test_where_events_end(stream: bytes, events: list[bytes], rest: bytes) -> None:
    """At a blank line; a CR at the very end may be half of a CRLF, so it waits."""
    assert split([stream]) == (events, rest)
    assert split([bytes([byte]) for byte in stream]) == (events, rest)


def test_no_line_end_is_seen_inside_json() -> None:
    """U+2028, U+0085, VT and FF are text: only CR and LF end lines."""
    text = '{"a":"x\u2028y\u2029z\u0085\x0b\x0c\x1c"}'.encode()
    assert split([b"data: " + text + b"\n\n"]) == ([b"data: " + text + b"\n\n"], b"")
    assert event_data(b"data: " + text + b"\r\n\r\n") == text
    assert event_data(b"id: 1\ndata: " + text + b"\n\n") == text


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x \n\n", b" x "),
        (b"data: x", b"x"),
        (b"data: x\r\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: \n\n", b""),
        (b"data\n\n", b""),
        (b"data: a\ndata:b\r\ndata\rdata:  c\n\n", b"a\nb\n\n c"),
        (b": keep-alive\n\n", b""),
        (b":\n\n", b""),
        (b"event: ping\n\n", b""),
        (b"event: e\nid: 1\nretry: 5\ndata: x\n\n", b"x"),
        (b"datax: 1\ndata2\n Data: 2\n\n", b""),
        (b"\n\n", b""),
        (b"", b""),
        (b"\ndata: x\n\n", b"x"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b"\xef\xbb\xbf: c\ndata: x\n\n", b"x"),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes) -> None:
    """Its `data` lines joined by LF, at most one leading space off; all else is not data."""
    assert event_data(event) == data


def test_flush_starts_anew() -> None:
    """After the end nothing is held, and the splitter serves again."""
    splitter = EventSplitter()
    splitter.feed(b"data: a")
    assert splitter.held(6) == b"a"
    assert splitter.flush() == b"data: a"
    assert splitter.held_back == 0
    assert splitter.feed(b"data: b\n\n") == [b"data: b\n\n"]


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_forgetting_an_event_keeps_its_end_visible(line_end: bytes) -> None:
    """What is dropped is text only: the blank line that follows still ends that event."""
    splitter = EventSplitter()
    splitter.feed(b"data: " + b"x" * 100 + line_end)
    splitter.forget()
    assert splitter.held_back == len(line_end)
    assert splitter.feed(line_end + b"data: y" + line_end * 2 + b":") == [
        line_end * 2,
        b"data: y" + line_end * 2,
    ]


def test_an_endless_event_in_tiny_pieces_is_not_searched_again_and_again() -> None:
    """Holding a long event costs its length once, not once for each of its many pieces."""
    splitter = EventSplitter()
    for _ in range(100_000):
        splitter.feed(b"x")
    assert splitter.feed(b"\n\n") == [b"x" * 100_000 + b"\n\n"]
