"""Members of messages and their parts that two parsers would read differently: never let through.

As at a body's top level (`core/json_edit.py`): some parsers (Go's) take a name in any letter case,
so that `Content` is `content`, and of two members of one name some take the first. Looked at are
the objects in which media may stand, and the members that tell of media; what a tool is called with
may have any names.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gateway.core.errors import BadCall
from gateway.core.json_edit import has_second_members

CONTAINERS = ("content", "output", "parts", "functionResponse", "function_response")
_HOLDERS = (
    *("image_url", "audio_url", "video_url", "source"),
    *("inlineData", "inline_data", "fileData", "file_data", "input_audio"),
)
_TELLING = frozenset({*CONTAINERS, *_HOLDERS, "type", "file_id"})
_IN_HOLDERS = frozenset(
    {"type", "url", "detail", "data", "mimeType", "mime_type", "media_type", "file_id"}
)
_BRACE, _BRACKET = b"{["

_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

Prompt = bytes | memoryview
IsText = Callable[[bytes], bool]


def has_odd_spelling(names: Iterable[str]) -> bool:
    """Return whether one of a message's names is a telling one in other letters."""
    return any(name not in _TELLING and name.casefold() in _FOLDED for name in names)


def reject_ambiguous_names(prompt: Prompt, value: object, is_text: IsText) -> None:
    """Raise BadCall (`invalid_body`) for a telling name in other letters, or one that stands twice.

    `value` is what a decoder makes of the prompt. Where all members of one name are text
    (`is_text`, of raw JSON), whichever counts is text.
    """
    _reject_odd_spelling(value)
    if _encode(value) != bytes(prompt):  # blanks, escapes, or a member that was lost
        _reject_second_members(prompt, is_text)


def _reject_odd_spelling(value: object) -> None:
    todo = [(value, _TELLING)]
    while todo:
        one, telling = todo.pop()
        if type(one) is list:
            todo += [(each, telling) for each in one if type(each) is dict or type(each) is list]
        elif type(one) is dict:
            for name in one:
                if name not in telling and _FOLDED.get(name.casefold()) in telling:
                    known = _FOLDED[name.casefold()]
                    raise BadCall(
                        "invalid_body",
                        f"Member {name!r} of the request body must be spelt {known!r}.",
                    )
            if telling is _TELLING:
                todo += [(one[name], _TELLING) for name in CONTAINERS if name in one]
                todo += [(one[name], _IN_HOLDERS) for name in _HOLDERS if name in one]


def _reject_second_members(prompt: Prompt, is_text: IsText) -> None:
    todo: list[tuple[Prompt | msgspec.Raw, frozenset[str]]] = [(prompt, _TELLING)]
    while todo:
        one, telling = todo.pop()
        first = memoryview(one)[0]
        if first == _BRACKET:
            todo += [(each, telling) for each in _decode_list(one)]
        elif first == _BRACE:
            members = _decode_members(one)
            if has_second_members(bytes(one), members):
                _check_second_members(bytes(one), is_text, telling)
            if telling is _TELLING:
                todo += [(members[name], _TELLING) for name in CONTAINERS if name in members]
                todo += [(members[name], _IN_HOLDERS) for name in _HOLDERS if name in members]


def _check_second_members(text: bytes, is_text: IsText, telling: frozenset[str]) -> None:
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # objects are read from the inside: the last is the outermost
        return dict(pairs)

    json.loads(text.decode("utf-8", "replace"), object_pairs_hook=keep, strict=False)
    times = Counter(name for name, _ in outermost)
    for name, value in outermost:
        if times[name] > 1 and name in telling and not is_text(_encode({name: value})):
            raise BadCall("invalid_body", f"Member {name!r} stands twice in the request body.")


_FOLDED = {name.casefold(): name for name in sorted(_TELLING | _IN_HOLDERS)}
