"""Edits of a JSON object's top-level members that leave every other byte as it is."""

import json
import re

import msgspec

from gateway.core.errors import BadCall

# A member's name up to its value. Possessive: text is never read twice.
_NAME = re.compile(rb'[ \t\r\n]*+"((?:[^"\\]++|\\.)*+)"[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)
_NEXT = re.compile(rb"[ \t\r\n]*+[,}]")
_WHITESPACE = b" \t\r\n"
_MOST_MEMBERS = 1_000

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def member_spans(body: bytes) -> list[tuple[str, int, int]]:
    """Return (name, start, end) of each top-level member's value, whitespace left out.

    Raises BadCall if `body` is no JSON object, or has two members of one name: parsers disagree on
    which of them counts, so the provider could serve another than the one that was budgeted.
    """
    return _spans(body, _members(body))


def _spans(body: bytes, members: dict[str, msgspec.Raw]) -> list[tuple[str, int, int]]:
    """Return `member_spans`; `members` is emptied."""
    spans: list[tuple[str, int, int]] = []
    place = body.index(b"{") + 1
    while (found := _NAME.match(body, place)) is not None:
        name, start = _unescaped(found[1]), found.end()
        value = bytes(members.pop(name, b""))  # popped: a second one finds none
        end = start + len(value)
        following = _NEXT.match(body, end)
        # Of two members the decoder keeps the later, so the earlier has another value or length.
        if not value or following is None or not body.startswith(value, start):
            raise BadCall("invalid_body", f"Member {name[:64]!r} stands twice in the request body.")
        spans.append((name, start, end))
        place = following.end()
    return spans


def _members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        members = _decode_members(body)
    except (ValueError, RecursionError) as error:
        raise BadCall("invalid_body", f"The request body cannot be read: {error}") from None
    if len(members) > _MOST_MEMBERS:
        raise BadCall("invalid_body", f"The request body has more than {_MOST_MEMBERS:,} members.")
    return members


def _unescaped(raw_name: bytes) -> str:
    text = raw_name.decode()
    return json.loads(f'"{text}"') if "\\" in text else text


def reject_duplicates(body: bytes, keys: tuple[bytes, ...]) -> dict[str, msgspec.Raw]:
    """Return the top-level members' raw JSON, which points into `body`.

    Raises BadCall if a member stands twice at the top level, or a spelling of `keys` is odd: some
    parsers (Go's) take a name in any letter case, `Model` beside `model` is a second one.
    """
    members = _members(body)
    if not _is_compact(body, members):
        _spans(body, dict(members))
    for name in members:
        folded = name.casefold()
        if folded != name and folded.encode() in keys:
            raise BadCall(
                "invalid_body", f"Member {name!r} of the request body must be spelt {folded!r}."
            )
    return members


def has_second_members(body: bytes, members: dict[str, msgspec.Raw]) -> bool:
    """Return whether a member of an object stands twice; `members` are what a decoder kept."""
    if _is_compact(body, members):
        return False
    try:
        _spans(body, dict(members))
    except BadCall:
        return True
    return False


def _is_compact(body: bytes, members: dict[str, msgspec.Raw]) -> bool:
    """Return whether `members` account for every byte of `body`: then none stands twice.

    True for what most clients write, without white space between members; a second member of one
    name, or a name with escapes, would leave bytes over.
    """
    size = 1
    for name, value in members.items():
        size += len(name) + len(memoryview(value)) + 4  # two quotes, a colon, a comma or brace
    return size == len(body)


def with_members(body: bytes, edits: dict[bytes, bytes]) -> bytes:
    """Return `body`, a valid JSON object, with members set to raw JSON; absent ones go in front.

    Raises BadCall as `member_spans` does, if it has to look for a member.
    """
    if not edits:
        return body
    todo = dict(edits)
    pieces, done = [], 0
    if b"\\u00" in body or any(b'"%b"' % name in body for name in edits):
        for name, start, end in member_spans(body):
            if name.encode() in todo:
                pieces += [body[done:start], todo.pop(name.encode())]
                done = end
    edited = b"".join((*pieces, body[done:]))
    if not todo:
        return edited
    brace = edited.index(b"{") + 1
    front = b"".join(b'"%b":%b,' % item for item in todo.items())
    if edited[brace:].lstrip(_WHITESPACE).startswith(b"}"):
        front = front[:-1]
    return edited[:brace] + front + edited[brace:]
