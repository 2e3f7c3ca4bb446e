"""The readers of streams and bodies under random bytes: never raise, never lose or add a byte."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dialects.openai_chat import OPENAI_CHAT
from gateway.core.errors import BadCall
from gateway.core.json_edit import member_spans, reject_duplicates, with_members
from gateway.core.meter import StreamMeter
from gateway.core.sse import EventSplitter, event_data
from tests.soak import fuzz

pytestmark = [pytest.mark.soak, pytest.mark.repeats]

EXAMPLES = 250

USAGE = (
    b'{"id":"a","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,'
    b'"total_tokens":7}}'
)
DELTA = (
    b'{"id":"a","model":"m","choices":[{"index":0,"delta":{"content":"h\xc3\xa9"}}],"usage":null}'
)
PIECES = st.one_of(
    st.sampled_from(
        [
            b"data: " + DELTA,
            b"data: " + USAGE,
            b"data:" + USAGE,
            b"data: [DONE]",
            b"data: {",
            b'data: {"usage":-1,"choices":1}',
            b"event: x",
            b": ping",
            b"id: 1",
            b"data",
            b"\xef\xbb\xbf",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"\r\n\r\n",
            b"\r\r",
            b"\xe2\x80\xa8",
        ]
    ),
    st.binary(max_size=6),
)
STREAMS = st.lists(PIECES, max_size=14).map(b"".join)
CUTS = st.lists(st.integers(0, 1_500), max_size=6)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


def metered(pieces: list[bytes], *, hide: bool) -> tuple[bytes, Any]:
    meter = StreamMeter(OPENAI_CHAT, hide_usage=hide)
    passed = b"".join([*map(meter.feed, pieces), meter.end()])
    seen = meter.seen
    return passed, (seen.usage, seen.model, "".join(seen.text), seen.error_seen, seen.outdated)


@fuzz(EXAMPLES)
@given(data=STREAMS, places=CUTS)
def test_events_are_the_same_however_they_are_cut(data: bytes, places: list[int]) -> None:
    """No byte is lost or added; none of the events can be read without an error of ours."""
    whole, pieces = EventSplitter(), EventSplitter()
    at_once = [*whole.feed(data), whole.flush()]
    in_pieces = [event for piece in cut(data, places) for event in pieces.feed(piece)]
    in_pieces.append(pieces.flush())
    assert b"".join(at_once) == data
    assert [event for event in in_pieces if event] == [event for event in at_once if event]
    for event in at_once:
        event_data(event)


@fuzz(EXAMPLES)
@given(data=STREAMS, places=CUTS)
def test_what_is_metered_is_the_same_however_it_is_cut(data: bytes, places: list[int]) -> None:
    """Open streams pass unchanged; hiding takes out whole events only, the same in every cut."""
    passed, seen = metered(cut(data, places), hide=False)
    assert passed == data
    hidden, seen_hiding = metered(cut(data, places), hide=True)
    assert (hidden, seen_hiding) == metered([data], hide=True)
    assert seen == seen_hiding
    kept = EventSplitter()
    events = [*kept.feed(data), kept.flush()]
    rest = hidden
    for event in events:
        rest = rest.removeprefix(event)
    assert rest == b""


NAMES = st.sampled_from(["model", "stream", "stream_options", "max_tokens", "a", 'q"', "é", "\x00"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
EDITS = st.dictionaries(
    st.sampled_from([b"stream_options", b"max_tokens", b"model"]),
    st.sampled_from([b"1", b'"x"', b'{"include_usage":true}', b"null"]),
    max_size=2,
)
ODD_BYTES = st.lists(
    st.tuples(
        st.integers(0, 200), st.integers(0, 3), st.one_of(st.binary(max_size=2), st.just(b'"'))
    ),
    max_size=3,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    members = draw(st.dictionaries(NAMES, VALUES, max_size=5))
    indent = draw(st.sampled_from([None, 1]))
    return json.dumps(members, indent=indent, ensure_ascii=draw(st.booleans())).encode()


@fuzz(EXAMPLES)
@given(body=bodies(), edits=EDITS)
def test_an_edited_object_differs_in_its_edits_only(body: bytes, edits: dict[bytes, bytes]) -> None:
    """The members are those of the body, with the edits over them."""
    edited = json.loads(with_members(body, edits))
    wanted = json.loads(body) | {name.decode(): json.loads(raw) for name, raw in edits.items()}
    assert edited == wanted


def lenient(data: bytes) -> Any:
    """Return JSON, objects as pairs; a text that is no UTF-8 is the provider's matter."""
    return json.loads(data.decode("utf-8", "replace"), object_pairs_hook=list)


@fuzz(EXAMPLES)
@given(body=bodies(), edits=EDITS, mutations=ODD_BYTES)
def test_broken_bodies_are_refused_or_read_in_one_way(
    body: bytes, edits: dict[bytes, bytes], mutations: list[tuple[int, int, bytes]]
) -> None:
    """Nothing but BadCall is raised; what is taken has each member once, where it stands."""
    for place, length, piece in mutations:
        at = place % (len(body) + 1)
        body = body[:at] + piece + body[at + length :]
    try:
        reject_duplicates(body, (b"model", b"stream"))
        spans = member_spans(body)
    except BadCall:
        return
    names = [name for name, _, _ in spans]
    assert len(set(names)) == len(names)
    pairs: list[tuple[str, Any]] = lenient(body)
    assert [name for name, _ in pairs] == names
    for (_, value), (_, start, end) in zip(pairs, spans, strict=True):
        assert lenient(body[start:end]) == value
    edited = dict(lenient(with_members(body, edits)))
    assert {name: edited[name.decode()] for name in edits} == {
        name: lenient(raw) for name, raw in edits.items()
    }


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[]", b"{}x", b'{"a":1,"a":2}'])
def test_bodies_that_are_no_object_are_refused(data: bytes) -> None:
    with pytest.raises(BadCall):
        member_spans(data)
