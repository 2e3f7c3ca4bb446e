"""Edits of a JSON object's top-level members that leave every other byte as it is."""

import re

from gateway.core.errors import BadCall

# A string as one token, so that braces inside text are never seen; possessive: no backtracking.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]', re.DOTALL)
_WHITESPACE = b" \t\r\n"
_QUOTE, _COLON, _CLOSE = b'":}'


def member_spans(body: bytes) -> list[tuple[bytes, int, int]]:
    """Return (raw key, start, end) of each top-level member's value, whitespace left out.

    `body` must be a valid JSON object; keys come with their escapes, without quotes.
    """
    spans: list[tuple[bytes, int, int]] = []
    depth, key, value_start = 0, b"", 0
    last_string = b""
    for token in _TOKEN.finditer(body):
        mark = body[token.start()]
        if mark == _QUOTE:
            last_string = token[0]
        elif mark in b"{[":
            depth += 1
        elif mark == _COLON and depth == 1:
            key, value_start = last_string[1:-1], token.end()
        elif depth == 1 and mark in b",}":
            if value_start:
                spans.append((key, *_trimmed(body, value_start, token.start())))
            value_start = 0
            depth -= mark == _CLOSE
        elif mark in b"}]":
            depth -= 1
    return spans


def _trimmed(body: bytes, start: int, end: int) -> tuple[int, int]:
    while body[start] in _WHITESPACE:
        start += 1
    while body[end - 1] in _WHITESPACE:
        end -= 1
    return start, end


def reject_duplicates(body: bytes, keys: tuple[bytes, ...]) -> None:
    """Raise BadCall if one of `keys` may stand twice at the top level.

    Parsers disagree on which of two members counts: the provider could serve another model or
    ceiling than the one that was budgeted. Cheap unless a quoted key occurs twice or an escape
    could hide one.
    """
    suspicious = b"\\u00" in body or any(body.count(b'"%b"' % key) > 1 for key in keys)
    if not suspicious:
        return
    seen = set()
    for raw_key, _, _ in member_spans(body):
        key = _unescaped(raw_key)
        if key in seen and key in keys:
            raise BadCall(
                "invalid_body", f"Member {key.decode()!r} stands twice in the request body."
            )
        seen.add(key)


def _unescaped(raw_key: bytes) -> bytes:
    if b"\\" not in raw_key:
        return raw_key
    return re.sub(rb"\\u00([0-7][0-9a-fA-F])", lambda match: bytes([int(match[1], 16)]), raw_key)


def with_members(body: bytes, edits: dict[bytes, bytes]) -> bytes:
    """Return `body` with top-level members set to raw JSON values; absent ones go in front."""
    if not edits:
        return body
    todo = dict(edits)
    pieces, done = [], 0
    if any(b'"%b"' % key in body for key in edits) or b"\\u00" in body:
        for raw_key, start, end in member_spans(body):
            key = _unescaped(raw_key)
            if key in todo:
                pieces += [body[done:start], todo.pop(key)]
                done = end
    edited = b"".join((*pieces, body[done:]))
    if not todo:
        return edited
    brace = edited.index(b"{") + 1
    front = b"".join(b'"%b":%b,' % item for item in todo.items())
    if edited[brace:].lstrip(_WHITESPACE).startswith(b"}"):
        front = front[:-1]
    return edited[:brace] + front + edited[brace:]
