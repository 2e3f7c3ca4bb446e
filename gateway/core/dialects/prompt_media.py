"""What a prompt holds beside text: images, and what no formula bounds.

One reader for all dialects: a part says what it is by its `type`, or by the member that holds it
(Gemini). Parts stand in the members of `CONTAINERS`. What a model's own calls hold (`arguments`, a
tool's `input`) is text, whatever it says: a tool may well have a parameter of type "file".

Most prompts are only text, and long: a decoder that knows the shapes of text and fails at any other
tells so without building what it reads. Only what it refuses is read part by part.
"""

import json
from contextlib import suppress
from itertools import chain
from typing import Any, Literal, get_args

import msgspec

from gateway.core.dialects.prompt_names import (
    CONTAINERS,
    has_odd_spelling,
    reject_ambiguous_names,
)
from gateway.core.image_size import UNKNOWN, image_size
from gateway.core.image_tokens import Image

_IMAGES = frozenset({"image_url", "input_image", "image", "computer_screenshot"})
_UNBOUNDED = frozenset(
    {
        "audio",
        "audio_url",
        "document",
        "file",
        "input_audio",
        "input_file",
        "input_video",
        "item_reference",
        "video",
        "video_url",
    }
)
_GEMINI_DATA = ("inlineData", "inline_data", "fileData", "file_data")
_MOST_IMAGES = 1_000

Part = dict[str, Any]


class Media(msgspec.Struct, frozen=True, gc=False):
    """`payload_bytes` of the body are no text. `is_unbounded`: something has no formula at all."""

    images: tuple[Image, ...] = ()
    payload_bytes: int = 0
    is_unbounded: bool = False


TEXT_ONLY = Media()
UNBOUNDED = Media(is_unbounded=True)

TextType = Literal[
    "custom_tool_call",
    "custom_tool_call_output",
    "function",
    "function_call",
    "function_call_output",
    "input_text",
    "local_shell_call",
    "local_shell_call_output",
    "message",
    "output_text",
    "reasoning",
    "redacted_thinking",
    "refusal",
    "summary_text",
    "text",
    "thinking",
    "tool_result",
    "tool_use",
]
Role = Literal["user", "assistant", "system", "developer", "tool", "model", "function"]
_NULL = msgspec.Raw(b"null")


class _TextPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A message or part with nothing but text, under the names that are common.

    At any other name the decoder fails: it may be a medium's, or one that another parser takes for
    it. Raw members are text, or no content. Few names, in the order in which they mostly come, are
    read most quickly.
    """

    role: Role | None = None
    type: TextType | None = None
    text: msgspec.Raw = _NULL
    id: msgspec.Raw = _NULL
    tool_use_id: msgspec.Raw = _NULL
    tool_call_id: msgspec.Raw = _NULL
    call_id: msgspec.Raw = _NULL
    name: msgspec.Raw = _NULL
    input: msgspec.Raw = _NULL
    arguments: msgspec.Raw = _NULL
    thinking: msgspec.Raw = _NULL
    signature: msgspec.Raw = _NULL
    summary: msgspec.Raw = _NULL
    encrypted_content: msgspec.Raw = _NULL
    content: "_TextPart | list[_TextPart | str | None] | str | None" = None
    output: "_TextPart | list[_TextPart | str | None] | str | None" = None
    tool_calls: msgspec.Raw = _NULL
    cache_control: msgspec.Raw = _NULL
    status: msgspec.Raw = _NULL
    is_error: msgspec.Raw = _NULL
    parts: "_TextPart | list[_TextPart | str | None] | str | None" = None
    functionResponse: "_TextPart | None" = None
    refusal: msgspec.Raw = _NULL
    annotations: msgspec.Raw = _NULL


_TEXT_TYPES = frozenset(b'"%b"' % name.encode() for name in get_args(TextType))
_HELD_TEXT = ("content", "output", "parts")
_TELLING = frozenset(
    {"image_url", "audio_url", "video_url", "source", "file_id", *_GEMINI_DATA, *CONTAINERS}
) - {*_HELD_TEXT}
_QUOTE = b'"'[0]

_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(list[_TextPart | str | None] | _TextPart | str | None).decode


def media_in(prompt: bytes | memoryview) -> Media:
    """Return what a prompt's raw JSON holds beside text. What cannot be read is unbounded.

    Raises BadCall (`invalid_body`) for media under a name that two parsers would read differently.
    """
    if _is_text(prompt):
        return TEXT_ONLY
    try:
        value = _decode(prompt)
    except (ValueError, RecursionError):
        try:  # half a surrogate pair in a text hides nothing
            value = json.loads(bytes(prompt).decode("utf-8", "replace"), strict=False)
        except (ValueError, RecursionError):
            return UNBOUNDED
    with suppress(ValueError, RecursionError):  # what can be read nowhere is ambiguous nowhere
        reject_ambiguous_names(prompt, value, _is_text)
    return _Reader().read(value)


def _is_text(prompt: bytes | memoryview) -> bool:
    try:
        _decode_text(prompt)
    except (ValueError, RecursionError):
        return False
    return True


def is_only_text(messages: list[dict[str, msgspec.Raw]]) -> bool:
    """Return whether messages, given as their members, are only texts; False if unsure."""
    names = set(chain.from_iterable(messages))
    if not _TELLING.isdisjoint(names) or has_odd_spelling(names):
        return False
    if "type" in names:
        types = {bytes(message["type"]) for message in messages if "type" in message}
        if not types <= _TEXT_TYPES:
            return False
    return all(
        memoryview(message[name])[0] == _QUOTE
        for name in _HELD_TEXT
        if name in names
        for message in messages
        if name in message
    )


class _Reader:
    """Goes through a prompt without recursion: no depth can hurt."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._payload_bytes = 0
        self._is_unbounded = False

    def read(self, value: object) -> Media:
        todo: list[object] = [value]
        while todo:
            one = todo.pop()
            if type(one) is list:
                todo += [each for each in one if type(each) is dict or type(each) is list]
            elif type(one) is dict and not self._is_medium(one):
                todo += [one[name] for name in CONTAINERS if name in one]
        if not (self._images or self._is_unbounded or self._payload_bytes):
            return TEXT_ONLY
        return Media(tuple(self._images), self._payload_bytes, self._is_unbounded)

    def _is_medium(self, part: Part) -> bool:
        """Note an image or another medium; return whether `part` is one."""
        kind = part.get("type")
        if kind is None:
            return self._is_untyped_medium(part)
        if type(kind) is not str:
            return False
        if kind in _IMAGES:
            self._note(*_image_of(part))
        elif kind in _UNBOUNDED:
            self._note_unbounded(part)
        else:
            return False
        return True

    def _is_untyped_medium(self, part: Part) -> bool:
        """Gemini's parts, and members that servers take without a type."""
        for name in _GEMINI_DATA:
            data = part.get(name)
            if type(data) is dict:
                kind = data.get("mimeType") or data.get("mime_type")
                if type(kind) is str and kind.startswith("image/"):
                    self._note(*_base64_image(data.get("data"), ""))
                else:
                    self._note_unbounded(data)
                return True
        if "image_url" in part:
            self._note(*_image_of(part))
        elif "audio_url" in part or "video_url" in part:
            self._note_unbounded(part)
        else:
            return False
        return True

    def _note(self, image: Image, payload_bytes: int) -> None:
        self._payload_bytes += payload_bytes
        if len(self._images) < _MOST_IMAGES:
            self._images.append(image)
        else:
            self._is_unbounded = True

    def _note_unbounded(self, part: Part) -> None:
        """Leave its payload out: the longest text, in the part or in a member of it."""
        self._is_unbounded = True
        inside = [value for value in part.values() if type(value) is dict]
        texts = [value for each in (part, *inside) for value in each.values()]
        self._payload_bytes += max(
            (_payload(text) for text in texts if type(text) is str), default=0
        )


_LEAST_PAYLOAD = 256


def _payload(text: str) -> int:
    """Return how many bytes of a text are base64: a URL's data, or a long text of one word."""
    marker = text.find("base64,", 0, 200)
    if marker >= 0:
        return len(text) - marker - len("base64,")
    return len(text) if len(text) >= _LEAST_PAYLOAD and " " not in text else 0


def _image_of(part: Part) -> tuple[Image, int]:
    """Return an image and the bytes of its payload: chat, Responses and Anthropic's shapes."""
    source = part.get("source")
    if type(source) is dict:
        return _base64_image(source.get("data"), "")
    said = part.get("image_url")
    holder = said if type(said) is dict else part
    url = said.get("url") if type(said) is dict else said
    detail = holder.get("detail")
    detail = detail if type(detail) is str else ""
    if type(url) is not str:
        return Image(detail=detail), 0
    marker = url.find("base64,", 0, 200) if url.startswith("data:") else -1
    if marker < 0:
        return Image(detail=detail), 0
    start = marker + len("base64,")
    return Image(*image_size(url, start), detail), len(url) - start


def _base64_image(data: object, detail: str) -> tuple[Image, int]:
    if type(data) is not str:
        return Image(*UNKNOWN, detail), 0
    return Image(*image_size(data), detail), len(data)
