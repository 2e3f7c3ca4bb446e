"""A body read in one pass says what a body read in two does, and takes no more than that."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dialects.prompt_media import TEXT_ONLY, Media
from gateway.core.dialects.prompted_body import MOST_BYTES, prompt_apart, read_prompted_body
from gateway.core.errors import BadCall

BUDGETED = (b"model", b"max_tokens")
TEXT = 'a word, "quoted" and \\ [x] and {y} \n' * 1_100  # 33 KB
IMAGE = {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}


class Members(msgspec.Struct):
    model: Any = None
    max_tokens: Any = None
    tools: Any = None
    metadata: Any = None


decode = msgspec.json.Decoder(Members).decode


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def read(body: bytes, prompt: str = "messages") -> tuple[Members, Media]:
    return read_prompted_body(decode, body, BUDGETED, prompt)


def in_two_passes(body: bytes) -> tuple[Members, Media] | str:
    """Return what a short body like this would give; the refusal's text if there is one."""
    spaced = body + b" " * MOST_BYTES
    try:
        return read(spaced)
    except BadCall as refusal:
        return refusal.message


def in_one_pass(body: bytes) -> bool:
    return prompt_apart(body, BUDGETED, "messages") is not None


@pytest.mark.parametrize("prompt", ["messages", "input", "contents"])
@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": TEXT}],
        [{"role": "user", "content": TEXT}, {"role": "assistant", "content": None}, {}],
        [{"type": "message", "role": "user", "content": TEXT}],
        [
            {"content": [{"type": "text", "text": TEXT}]},
            {"output": TEXT},
            {"parts": [{"text": "x"}]},
        ],
        [{"content": "\U0001f600 \u00e9 \u2014" + TEXT, "name": "\u00fc"}],
    ],
)
def test_long_texts_are_read_in_one_pass(prompt: str, messages: list[Any]) -> None:
    """Whatever stands before and behind them."""
    body = compact({"model": "m", prompt: messages, "tools": [{"name": "a"}], "max_tokens": 5})
    assert prompt_apart(body, BUDGETED, prompt) is not None
    assert read(body, prompt) == (Members("m", 5, [{"name": "a"}]), TEXT_ONLY)


def test_media_are_found_in_the_part_that_was_put_aside() -> None:
    """In typed parts and by telling members."""
    for message in ({"content": [IMAGE]}, {"content": TEXT, "image_url": "x"}, {"type": "image"}):
        body = compact({"messages": [{"content": TEXT}, message], "model": "m"})
        assert in_one_pass(body)
        assert read(body) == in_two_passes(body)
        assert len(read(body)[1].images) == 1


MESSAGES = compact([{"role": "user", "content": TEXT}])
SHORT = compact([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":%b,"model":"a","messages":%b}' % (MESSAGES, MESSAGES),
        b'{"messages":[],"model":"a","model":"b","messages":%b}' % MESSAGES,
        b'{"messages":%b,"model":"a","model":"b"}' % MESSAGES,
        b'{"model":"a","messages":%b,"model":"b"}' % MESSAGES,
        b'{"messages":%b,"model":"a","pad":"%b","messages":%b}'
        % (SHORT, b"x" * (len(MESSAGES) - len(SHORT) - len(',"model":"a","pad":""')), MESSAGES),
        b'{"messages":%b,"model":"a","pad":"%b","messages":%b,"model":"b"}'
        % (SHORT, b"x" * (len(MESSAGES) - len(SHORT) - len(',"model":"a","pad":""')), MESSAGES),
        b'{"messages":%b,"Model":"b"}' % MESSAGES,
        b'{"messages":%b,"model":"a"' % MESSAGES,
        b'{"messages":%b]}' % MESSAGES,
    ],
)
def test_what_is_ambiguous_is_refused_in_one_pass_too(body: bytes) -> None:
    """Second members behind, before and inside of what is put aside, however long they are."""
    assert not in_one_pass(body)
    with pytest.raises(BadCall) as refusal:
        read(body)
    assert refusal.value.message == in_two_passes(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": %b,"model":"a"}' % MESSAGES,
        b'{"messages":[ %b,"model":"a"}' % MESSAGES[1:],
        b'{"messages":[{"content": "%b"}],"model":"a"}' % (b"x" * 40_000),
        b'{"messages":[{"content":"x","content":"%b"}],"model":"a"}' % (b"x" * 40_000),
        b'{"metadata":{"messages":%b},"messages":%b,"model":"a"}' % (MESSAGES, MESSAGES),
        b'{"a\\"messages":%b,"messages":%b,"model":"a"}' % (MESSAGES, SHORT),
        b'{"messages":"%b","model":"a"}' % (b"x" * 40_000),
        b'{"model":"a","user":"%b"}' % (b"x" * 40_000),
        compact({"messages": [{"content": "short"}] * 3_000, "model": "a"}),
    ],
)
def test_what_is_unusual_is_read_in_two(body: bytes) -> None:
    """Blanks, other shapes, the name deeper down, a member twice in a message."""
    assert not in_one_pass(body)
    assert read(body) == in_two_passes(body)
    assert read(body)[0].model == "a"


DENSE = ",".join(f'"{number}":1' for number in range(100_000)).encode()


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{%b}],"messages":[]}' % DENSE,
        b'{"messages":[{"content":"%b"},{%b}],"model":"a"}' % (b"x" * 20_000, DENSE),
        b'{"model":"a","messages":%b,"tools":[{%b}]}' % (MESSAGES, DENSE),
    ],
)
def test_many_members_are_not_taken_apart(body: bytes) -> None:
    """That would take many times as long as two passes, wherever they stand."""
    assert not in_one_pass(body)


def test_depth_raises_nothing_but_a_refusal() -> None:
    """However deep, also where only a part's kind is."""
    text = b'{"content":"%b"}' % (b"x" * 40_000)
    for depth in range(900, 1_010):
        part = b'{"inlineData":{"mimeType":%b1%b}}' % (b"[" * depth, b"]" * depth)
        body = b'{"model":"a","messages":[%b,%b]}' % (text, part)
        with suppress(BadCall):
            assert read(body)[1].is_unbounded


def test_another_spelling_of_the_prompt_is_refused() -> None:
    """Go's parser would take the second for the first."""
    for messages in (MESSAGES, SHORT):
        body = b'{"messages":%b,"Messages":%b}' % (messages, SHORT)
        with pytest.raises(BadCall, match="must be spelt 'messages'"):
            read(body)


LONG_BYTES = 40_000


def short_and_long(messages: bytes) -> list[bytes]:
    """Bodies with these messages, which are read in two passes and in one; and one with blanks."""
    text = b'{"role":"user","content":"%b"}' % (b"x " * LONG_BYTES)
    short = b'{"model":"a","messages":[%b]}' % messages
    return [
        short,
        b'{"model":"a","messages":[%b,%b]}' % (text, messages),
        b'{"model":"a", "messages": [%b,%b]}' % (text, messages),
        short + b" " * LONG_BYTES,
    ]


PICTURE = b'{"type":"image_url","image_url":{"url":"https://a.example/x.png"}}'
ODD = [
    (b'{"role":"user","content":"x","Content":[%b]}' % PICTURE, "'Content' .* 'content'"),
    (b'{"role":"user","Content":"x"}', "'Content' .* 'content'"),
    (b'{"content":[{"Type":"image_url","Image_Url":{}}]}', "'Type' .* 'type'"),
    (b'{"content":[{"type":"text","text":"x"},{"Image_url":1}]}', "'Image_url' .* 'image_url'"),
    (b'{"parts":[{"text":"x","inlinedata":{}}]}', "'inlinedata' .* 'inlineData'"),
    (b'{"parts":[{"functionResponse":{"Parts":[]}}]}', "'Parts' .* 'parts'"),
    (b'{"content":[{"type":"text","\\u0053ource":{}}]}', "'Source' .* 'source'"),
    (b'{"content":[{"type":"text","text":"\xed\xa0\x80","Source":{}}]}', "'Source' .* 'source'"),
    ('{"content":[{"type":"text","\u017fource":{}}]}'.encode(), "'source'"),
    (b'{"content":[{"type":"image_url","image_url":{"URL":"x"}}]}', "'URL' .* 'url'"),
]


@pytest.mark.parametrize(("messages", "said"), ODD)
def test_another_spelling_of_what_may_be_a_medium_is_refused(messages: bytes, said: str) -> None:
    """In a message and in its parts, however the body is read; as at the top level."""
    for body in short_and_long(messages):
        with pytest.raises(BadCall, match=f"Member {said}" if " " in said else said) as refusal:
            read(body)
        assert refusal.value.code == "invalid_body"


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        (b'{"content":[%b],"content":"x"}' % PICTURE, "content"),
        (b'{"content":"x","content":[%b]}' % PICTURE, "content"),
        (b'{"content":[{"type":"image_url","type":"text","text":"x"}]}', "type"),
        (b'{"content":[{"type":"text","text":"x","\\u0074ype":"image_url"}]}', "type"),
        (b'{"content":[{"image_url":"a","image_url":"b"}]}', "image_url"),
        (b'{"content":[{"type":"image_url","image_url":{"url":"a","url":"b"}}]}', "url"),
        (b'{"parts":[{"inlineData":{"data":"a","mimeType":"x","data":"b"}}]}', "data"),
    ],
)
def test_a_medium_under_a_name_that_stands_twice_is_refused(messages: bytes, name: str) -> None:
    """Parsers disagree on which of them counts."""
    for body in short_and_long(messages):
        with pytest.raises(BadCall, match=f"Member '{name}' stands twice") as refusal:
            read(body)
        assert refusal.value.code == "invalid_body"


@pytest.mark.parametrize(
    ("messages", "images"),
    [
        (b'{"role":"user","content":"x","content":"y"}', 0),
        (b'{"role":"user","content":"x","vendor":1,"Vendor":2,"vendor":3}', 0),
        (b'{"content":[{"type":"tool_use","input":{"Content":"x","Type":"file"}}],"v":0}', 0),
        (b'{"parts":[{"functionResponse":{"response":{"Parts":1,"type":"image"}}}]}', 0),
        (b'{"content":[%b],"name":"a","name":"b"}' % PICTURE, 1),
        (b'{"content":[%b,{"type":"text","text":"x","text":"y"}, null, 1]}' % PICTURE, 1),
        (b'{"content": [ %b ] }' % PICTURE, 1),
        (b'{"content":[{"type":"text","text":"\xed\xa0\x80"},%b]}' % PICTURE, 1),
    ],
)
def test_other_names_and_texts_may_be_as_they_are(messages: bytes, images: int) -> None:
    """Whichever of two texts counts is text; a tool's own names tell of nothing."""
    for body in short_and_long(messages):
        decoded, media = read(body)
        assert (decoded.model, len(media.images), media.is_unbounded) == ("a", images, False)


PIECES = st.lists(
    st.sampled_from(
        [
            MESSAGES,
            SHORT,
            b"[]",
            b"{}",
            b"0",
            b'"messages":',
            b'"model":"a"',
            b'"model":"b"',
            b",",
            b"{",
            b"}",
            b"[",
            b"]",
            b":",
            b'"x":',
            b'"',
            b" ",
            b'{"messages":',
            b'"metadata":',
        ]
    ),
    max_size=14,
)


@given(PIECES, st.sampled_from([b'{"messages":%b,"model":"a"}', b'{"model":"a","messages":%b}']))
def test_one_pass_takes_nothing_that_two_would_not(pieces: list[bytes], frame: bytes) -> None:
    """Any pieces put together, valid or not."""
    for body in (b"".join(pieces), frame % b"".join(pieces), frame % (MESSAGES + b"".join(pieces))):
        if in_one_pass(body):
            assert read(body) == in_two_passes(body)


@pytest.mark.parametrize("messages", [8, 16, 24, 40])
def test_messages_of_one_length_are_not_taken_for_short_ones(messages: int) -> None:
    """Though an end of one stands at each eighth of the body."""
    said = [{"role": "user", "content": "x" * 10_000} for _ in range(messages)]
    assert in_one_pass(compact({"model": "m", "messages": said}))
    assert in_one_pass(compact({"messages": said, "model": "m", "max_tokens": 5}))
