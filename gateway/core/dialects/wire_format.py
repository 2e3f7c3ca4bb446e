"""What a dialect answers for: the one interface through which the data path sees a wire format.

A dialect is one module that ends in one `WireFormat`, a table of its functions. `table.py` lists
them by name; planner, lifecycle, accounting and meter know nothing else of them.
"""

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from gateway.core.dialects.prompt_media import TEXT_ONLY, Media
from gateway.core.dialects.stream_end import Cut
from gateway.core.errors import BadCall
from gateway.core.json_edit import reject_duplicates, with_members
from gateway.core.usage import MOST_TOKENS, NO_USAGE, Usage

LONGEST_MODEL_NAME = 256  # characters
MOST_CHOICES = 10_000

Read = TypeVar("Read")
Member = TypeVar("Member")


class ModelRequest(msgspec.Struct, frozen=True):
    """What a budget needs to know of a request.

    `output_limit` is in tokens for each of `choices`, None if the request sets none; `limit_keys`
    are its members that set one, or the one to set. `usage_wish` is (member, JSON) to set so that
    a stream reports its usage, None where that comes by itself. `least_limit` is the lowest limit
    that the API takes. `is_open` tells that what is billed as input is not all in the body,
    `is_background` that the answer may come later, elsewhere. `media` is what the prompt holds
    beside text. `pieces` are what is billed by other units than tokens, and the terms of the
    price, as far as the request tells. `is_uncountable` tells that the answer's length cannot be
    told from what it holds, `takes_limit` that an output limit can be put into the request.
    """

    model: str
    stream: bool = False
    output_limit: int | None = None
    choices: int = 1
    limit_keys: tuple[bytes, ...] = ()
    usage_wish: tuple[bytes, bytes] | None = None
    least_limit: int = 0
    is_open: bool = False
    is_background: bool = False
    media: Media = TEXT_ONLY
    pieces: Usage = NO_USAGE
    is_uncountable: bool = False
    takes_limit: bool = True


class Answer(Protocol):
    """A JSON answer, or one event of a stream, as far as a meter reads it."""

    @property
    def model(self) -> str | None:
        """Return the model that answers, if this says so."""

    @property
    def error(self) -> Any:
        """Return the error that this reports, None if it reports none."""

    def text(self) -> str:
        """Return all generated text: content, reasoning, refusal, tool names and arguments."""

    def usage_after(self, earlier: Usage | None) -> Usage | None:
        """Return the usage that is in force after this; None if this reports none.

        It may be nonsense: `Usage.is_plausible` tells. `earlier` is the last report before it.
        """


class WireFormat(msgspec.Struct, frozen=True):
    """How requests and answers of one dialect are read and edited. Nothing but `read` raises.

    - `read(body, target)`: the request's facts; BadCall (`invalid_body`) if it cannot be read.
    - `clamped(body, request, tokens)`: the edits, raw JSON by top-level member, that limit the
      output of all choices together.
    - `countable_text(body)`: the text to count and the tokens that its frame costs beside it.
    - `read_answer(data)`: a whole JSON answer or an event's data; None if it is neither.
    - `may_be_only_text(data)`: whether an event holds neither usage nor an error; False if unsure.
    - `is_usage_only(data)`: whether an event is exactly what `usage_wish` adds to a stream.
    - `read_form(body, content_type)`: as `read`, of a multipart form; None where none is taken.
    - `longest_event`: bytes of an event up to which it is worth a copy.
    - `stream_end(cut)`: what ends a stream from here; None where none is ever cut.
    - `streams_lines`: its streams are lines of JSON, not events.
    - `takes_comments`: its clients skip comments between events; Gemini's SDK takes them for JSON.
    """

    read: Callable[[bytes, bytes], ModelRequest]
    clamped: Callable[[bytes, ModelRequest, int], dict[bytes, bytes]]
    countable_text: Callable[[bytes], tuple[str, int]]
    read_answer: Callable[[bytes], Answer | None]
    may_be_only_text: Callable[[bytes], bool]
    is_usage_only: Callable[[bytes], bool]
    read_form: Callable[[bytes, bytes], ModelRequest] | None = None
    longest_event: int = 1_048_576
    stream_end: Callable[[Cut], bytes] | None = None
    streams_lines: bool = False
    takes_comments: bool = False


def edited_body(
    wire: WireFormat, body: bytes, request: ModelRequest, *, ask_usage: bool, clamp: int | None
) -> bytes:
    """Return the body to send: usage asked for in a stream, the output clamped, no other change."""
    edits: dict[bytes, bytes] = {}
    if ask_usage and request.usage_wish is not None:
        member, value = request.usage_wish
        edits[member] = value
    if clamp is not None:
        edits |= wire.clamped(body, request, clamp)
    return with_members(body, edits)


def clamped_members(body: bytes, request: ModelRequest, tokens: int) -> dict[bytes, bytes]:
    """Return the edits where the limit is a top-level member (`WireFormat.clamped`)."""
    one = b"%d" % max(1, tokens // request.choices)  # some servers take 0 for no limit
    return dict.fromkeys(request.limit_keys, one)


def never_usage_only(data: bytes) -> bool:
    """Return False: this dialect reports usage without being asked (`WireFormat.is_usage_only`)."""
    return False


def has_no_usage(data: bytes) -> bool:
    """Return whether an event names neither usage nor an error.

    Plain searches, for this is asked of every event: a name could hide in escapes only.
    """
    return not (b'"usage"' in data or b'"error"' in data or b"\\u00" in data)


def read_body(decode: Callable[[bytes], Read], body: bytes, budgeted: tuple[bytes, ...]) -> Read:
    """Return a decoded request. Raises BadCall (`invalid_body`) if it is unreadable or ambiguous.

    `budgeted` are the members that a budget depends on: no second spelling of them is taken.
    """
    try:
        read = decode(body)
    except (ValueError, RecursionError) as error:
        raise BadCall("invalid_body", f"The request body cannot be read: {error}") from None
    reject_duplicates(body, budgeted)
    return read


def check_sizes(model: str | None, choices: int | None, limit: int) -> None:
    """Raise BadCall for what no provider takes and no label, key or counter should have to."""
    if (
        len(model or "") <= LONGEST_MODEL_NAME
        and (choices or 0) <= MOST_CHOICES
        and limit <= MOST_TOKENS
    ):
        return
    raise BadCall(
        "invalid_body",
        f"The request cannot be budgeted: a model's name is bounded by {LONGEST_MODEL_NAME} "
        f"characters, choices by {MOST_CHOICES:,}, an output limit by {MOST_TOKENS:,} tokens.",
    )


def unless_it_falls(usage: Usage | None, earlier: Usage | None) -> Usage | None:
    """Return a cumulative report; None for one below an earlier one: that is not believed."""
    falls = (
        usage is not None
        and earlier is not None
        and earlier.is_plausible
        and usage.is_plausible
        and usage.total < earlier.total
    )
    return None if falls else usage


def readable_members(data: bytes) -> dict[str, Any] | None:
    """Return the members of a JSON object that a strict reader refuses; None if it is no object.

    Half a surrogate pair or a control character in a text hides no usage.
    """
    try:
        found = json.loads(data.decode("utf-8-sig", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def converted(kind: type[Member], value: object) -> Member | None:
    """Return `value` as a member of an answer, None if it is none: odd members hide no others."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except (ValueError, RecursionError):
        return None
