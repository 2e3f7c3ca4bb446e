"""Requests whose prompt is long: read in one pass that leaves its texts alone.

Two questions are asked of a body before it may go on: does a member stand twice in it, and does the
prompt hold anything but text? Both need raw members: the body's, and those of every message. One
decoder gives the messages' members in the pass in which it goes over the body; their lengths add up
to that of the prompt, so the rest of the body is what is before and behind it.
"""

from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import msgspec

from gateway.core.dialects.prompt_media import TEXT_ONLY, Media, is_only_text, media_in
from gateway.core.errors import BadCall
from gateway.core.json_edit import reject_duplicates

Read = TypeVar("Read")
Members = dict[str, msgspec.Raw]

_STAND_IN = b"0"
# Short bodies and short messages are read as quickly in two passes, and many members more quickly;
# huge bodies are seldom texts.
_LONG_BYTES = 32_768
MOST_BYTES = 1_048_576
_SAMPLES, _SAMPLE_BYTES = 8, 1_024
_MOST_QUOTES = 32  # in all samples: about 2 KB for each message
_decoders: dict[str, Callable[[bytes], msgspec.Struct]] = {
    prompt: msgspec.json.Decoder(msgspec.defstruct("Prompted", [(prompt, list[Members])])).decode
    for prompt in ("messages", "input", "contents")
}


def read_prompted_body(
    decode: Callable[[bytes], Read], body: bytes, budgeted: tuple[bytes, ...], prompt: str
) -> tuple[Read, Media]:
    """Return a decoded request without its prompt, and what that holds beside text.

    `budgeted` are the members that a budget depends on: no second spelling of them is taken. Raises
    BadCall (`invalid_body`) if the body is unreadable or ambiguous.
    """
    apart, budgeted = None, (*budgeted, prompt.encode())
    if _LONG_BYTES <= len(body) <= MOST_BYTES:
        apart = prompt_apart(body, budgeted, prompt)
    if apart is None:
        members = reject_duplicates(body, budgeted)
        said = members.pop(prompt, None)
        apart = members, TEXT_ONLY if said is None else media_in(said)
    members, media = apart
    try:
        return decode(msgspec.json.encode(members)), media
    except (ValueError, RecursionError) as error:
        raise BadCall("invalid_body", f"The request body cannot be read: {error}") from None


def prompt_apart(
    body: bytes, budgeted: tuple[bytes, ...], prompt: str
) -> tuple[Members, Media] | None:
    """Return a body's members but for a prompt that is a list of messages, and that list's media.

    The list is put aside where the prompt's name is found first, as long as its messages' members
    say. If what is left is an object with each member once and the stand-in is the prompt's, then
    nothing else was put aside: the list begins there, a reader that comes to its end finds the same
    rest, and a second list of that name would still be there. Lists with blanks, or with members
    that stand twice, are longer than their members say, and what is left is no object: then None.
    Raises BadCall as `media_in` does.
    """
    name = b'"%b":[' % prompt.encode()
    found = body.find(name)
    if found < 0 or _quotes_in_samples(body) > _MOST_QUOTES:
        return None
    start = found + len(name) - 1
    try:
        messages: list[Members] = getattr(_decoders[prompt](body), prompt)
        end = start + _compact_bytes(messages)
        members = reject_duplicates(body[:start] + _STAND_IN + body[end:], budgeted)
    except (ValueError, RecursionError, BadCall):
        return None
    if bytes(members.pop(prompt, b"")) != _STAND_IN:
        return None
    media = TEXT_ONLY if is_only_text(messages) else media_in(memoryview(body)[start:end])
    return members, media


def _quotes_in_samples(body: bytes) -> int:
    """Return how many quotes of JSON's own stand in samples from all over the body.

    They are not an eighth of it apart: messages of one length would end in every one of them.
    """
    quotes, apart = 0, len(body) * (_SAMPLES + 1) // _SAMPLES**2
    for start in range(0, apart * _SAMPLES, apart):
        end = start + _SAMPLE_BYTES
        quotes += body.count(b'"', start, end) - body.count(b'\\"', start, end)
    return quotes


def _compact_bytes(messages: list[Members]) -> int:
    """Return the length of a JSON list whose objects have these members, written without blanks."""
    names = list(chain.from_iterable(messages))
    values = chain.from_iterable(map(dict.values, messages))
    empty = sum(not message for message in messages)
    # Each member has two quotes, a colon, and a comma or brace; each object a brace and a comma.
    return (
        (sum(map(len, names)) + 4 * len(names))
        + sum([len(memoryview(value)) for value in values])
        + (2 * len(messages) + 1 + empty if messages else 2)
    )
