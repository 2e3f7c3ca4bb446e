"""AnswerReader without a socket: each case whole, cut at every byte, and byte by byte."""

import pytest

from gateway.upstream.answer import MAX_HEAD_BYTES, MAX_IDLE_FRAMING_BYTES, AnswerReader
from tests.upstream.cases import CASES, WHOLE, Case, Events, head, names


def told(reader: AnswerReader, method: bytes, pieces: list[bytes]) -> Events:
    """Feed the pieces and then the end; return what a sink would have heard."""
    reader.begin(method)
    events: Events = []
    body = b""
    for piece in pieces:
        if not reader.ended:
            body += reader.feed(piece)
    reader.feed_eof(clean=True)
    if reader.head_done:
        events.append(("head", reader.status, reader.headers, reader.length))
    if body:
        events.append(("body", body))
    events.append(("end",) if reader.error is None else ("broken", reader.error.code))
    return events


@pytest.mark.parametrize("case", CASES, ids=names)
def test_whole(case: Case) -> None:
    assert told(AnswerReader(), case.method, [case.wire]) == case.events


@pytest.mark.parametrize("case", CASES, ids=names)
def test_cut_at_every_byte(case: Case) -> None:
    for at in range(1, len(case.wire)):
        pieces = [case.wire[:at], case.wire[at:]]
        assert told(AnswerReader(), case.method, pieces) == case.events, at


@pytest.mark.parametrize("case", CASES, ids=names)
def test_byte_by_byte(case: Case) -> None:
    pieces = [bytes([byte]) for byte in case.wire]
    assert told(AnswerReader(), case.method, pieces) == case.events


@pytest.mark.parametrize("case", CASES, ids=names)
def test_says_whether_the_connection_is_fit_for_more(case: Case) -> None:
    reader = AnswerReader()
    told(reader, case.method, [case.wire])
    assert reader.keep_alive == (case in WHOLE and case.reusable)


@pytest.mark.parametrize("case", [case for case in WHOLE if case.reusable], ids=names)
def test_reads_one_answer_after_another(case: Case) -> None:
    reader = AnswerReader()
    for _ in range(3):
        assert told(reader, case.method, [case.wire]) == case.events


def test_every_answer_has_its_own_list_of_headers() -> None:
    reader = AnswerReader()
    first = told(reader, b"GET", [head("A: 1", "Content-Length: 0")])
    told(reader, b"GET", [head("B: 2", "Content-Length: 0")])
    assert first[0][2] == [(b"A", b"1"), (b"Content-Length", b"0")]


# The head's size


def padded_head(size: int) -> bytes:
    empty = head("X: ", "Content-Length: 0")
    return head("X: " + "a" * (size - len(empty)), "Content-Length: 0")


@pytest.mark.parametrize("step", [1_000, 65_536, 1_000_000])
def test_a_head_may_have_64_kib(step: int) -> None:
    wire = padded_head(MAX_HEAD_BYTES)
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
    assert told(AnswerReader(), b"GET", pieces)[-1] == ("end",)


@pytest.mark.parametrize("step", [1_000, 65_536, 1_000_000])
def test_a_larger_head_is_refused_however_it_comes(step: int) -> None:
    wire = padded_head(MAX_HEAD_BYTES + 1)
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
    reader = AnswerReader()
    assert told(reader, b"GET", pieces) == [("broken", "upstream_protocol_error")]
    assert "larger than 65536" in str(reader.error)


def test_interim_answers_without_end_are_refused() -> None:
    reader = AnswerReader()
    assert told(reader, b"GET", [head(status=102)] * 3_000)[-1][0] == "broken"


def test_a_large_body_may_follow_a_head_at_once() -> None:
    reader = AnswerReader()
    body = b"x" * 300_000
    events = told(reader, b"GET", [head("Content-Length: 300000") + body])
    assert events[1:] == [("body", body), ("end",)]


def test_bytes_after_an_answer_count_even_beyond_the_heads_limit() -> None:
    reader = AnswerReader()
    told(reader, b"GET", [head("Content-Length: 65500") + b"x" * 65_500 + b"HTTP/1.1 2"])
    assert reader.ended
    assert reader.error is None
    assert not reader.keep_alive


@pytest.mark.parametrize("flood", [b"0\r\nX: ", b"5;"])
def test_trailers_and_extensions_without_end_are_refused(flood: bytes) -> None:
    reader = AnswerReader()
    pieces = [head("Transfer-Encoding: chunked"), flood]
    pieces += [b"a" * 1_000] * (MAX_IDLE_FRAMING_BYTES // 1_000 + 1)
    assert told(reader, b"GET", pieces)[-1] == ("broken", "upstream_protocol_error")


# Body pieces


def test_the_pieces_of_one_feed_are_joined() -> None:
    reader = AnswerReader()
    reader.begin(b"POST")
    reader.feed(head("Transfer-Encoding: chunked"))
    assert reader.feed(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n") == b"abc"
    assert reader.feed(b"1\r\n") == b""
    assert reader.feed(b"d\r\n0\r\n\r\n") == b"d"
    assert reader.ended


# The end of the connection


def test_an_unclean_close_ends_no_answer() -> None:
    reader = AnswerReader()
    reader.begin(b"GET")
    reader.feed(head("X: y") + b"hello")
    reader.feed_eof(clean=False)
    assert reader.error is not None
    assert reader.error.code == "upstream_broken"
    assert reader.error.sent


def test_a_close_without_an_answer_says_so() -> None:
    reader = AnswerReader()
    reader.begin(b"GET")
    assert reader.untouched
    reader.feed_eof(clean=True)
    assert "without an answer" in str(reader.error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Keep-Alive: timeout=5, max=100", 5),
        ("keep-alive: Timeout=72", 72),
        ("Keep-Alive: max=3", None),
        ("X: y", None),
    ],
)
def test_the_providers_keep_alive_is_noted(header: str, seconds: int | None) -> None:
    reader = AnswerReader()
    told(reader, b"GET", [head(header, "Content-Length: 0")])
    assert reader.keep_alive_s == seconds
