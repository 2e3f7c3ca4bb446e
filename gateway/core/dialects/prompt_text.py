"""The text of a request, as far as tokens are counted by text.

Facts (`docs/wire.md`): messages cost about 3 tokens each beside their text, and the answer 3 to be
primed; tools counted as their JSON come to more than is billed for them, so sums are upper bounds
of the text. Images, audio and files are billed by other rules than the length of what they hold.
"""

import json
from typing import Any

import msgspec

PRIMING_TOKENS = 3
MESSAGE_TOKENS = 3
# Members that hold payloads, or say what a part is rather than something in it.
_NO_TEXT = frozenset(
    {
        "audio_url",
        "encrypted_content",
        "file",
        "fileData",
        "file_data",
        "image_url",
        "inlineData",
        "inline_data",
        "input_audio",
        "signature",
        "source",
        "thoughtSignature",
        "type",
        "video_url",
    }
)


def read_object(body: bytes) -> dict[str, Any] | None:
    """Return a body that is a JSON object, else None."""
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def text_of(value: object) -> str:
    """Return a string as it is, nothing for nothing, and anything else as its JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else ""


def texts_in(value: object) -> list[str]:
    """Return the texts of a message, its parts and their parts; payloads are left out."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for part in value for text in texts_in(part)]
    if isinstance(value, dict):
        return [
            text for key, part in value.items() if key not in _NO_TEXT for text in texts_in(part)
        ]
    return [] if value is None else [text_of(value)]


def text_of_members(
    body: bytes, messages: str, others: tuple[str, ...], as_json: tuple[str, ...]
) -> tuple[str, int]:
    """Return `WireFormat.countable_text` of a dialect: messages, further texts, tools as JSON.

    A body that cannot be read counts as it stands. Never raises.
    """
    request = read_object(body)
    if request is None:
        return body.decode("utf-8", "replace"), PRIMING_TOKENS
    said = request.get(messages)
    number = len(said) if isinstance(said, list) else 1
    texts = texts_in(said)
    texts += [text for member in others for text in texts_in(request.get(member))]
    texts += [text_of(request.get(member)) for member in as_json]
    return "\n".join(text for text in texts if text), PRIMING_TOKENS + MESSAGE_TOKENS * number
