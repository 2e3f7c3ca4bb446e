"""The meter: reads a copy of the answer while it passes, and can never hurt the relay.

`feed` takes the provider's body bytes and returns those for the client: the same, but for a usage
event that only the gateway asked for. Any failure to read ends the metering, not the relaying.
"""

import re
from dataclasses import dataclass, field

from gateway.core.dialects.wire_format import Answer, WireFormat
from gateway.core.sse import EventSplitter, event_data
from gateway.core.usage import Usage

# A usage event is a few hundred bytes; a longer unfinished event (a tool call, an image) is not
# held back. It is still read, if it is not longer than what is worth a copy.
_LONGEST_HELD_EVENT = 16_384
_LONGEST_JSON = 64 * 1024 * 1024
_CHARS_PER_TOKEN = 4
_UNKNOWN = 1 << 62  # bytes: more than will ever pass
_NUMBER = re.compile(rb'"sequence_number": ?(\d{1,15})\b')


@dataclass(slots=True)
class Observation:
    """What was seen of one answer: the reported usage, and the text to count if there is none.

    `outdated` tells that text came after the last usage, so that it does not speak of all text;
    `is_doubtful` that the last report (`last`) cannot be true. `background_id` is that of an answer
    which is made in the background, `answer_id` that of any that said one where it is read.
    `background_failed` tells that it failed itself, and not only the stream that told of it.
    """

    usage: Usage | None = None
    last: Usage | None = None
    model: str = ""
    text: list[str] = field(default_factory=list)
    chars: int = 0
    error_seen: bool = False
    outdated: bool = False
    is_doubtful: bool = False
    background_id: str = ""
    background_failed: bool = False
    answer_id: str = ""

    def note(self, answer: Answer) -> None:
        """Take in a JSON answer or one event.

        Later usage replaces earlier, for it is cumulative.
        """
        self.note_text(answer)
        usage = answer.usage_after(self.last)
        if usage is not None:
            self._note_usage(usage)
        if answer.model:
            self.model = answer.model
        background_id = getattr(answer, "background_id", "")
        self.background_id = background_id or self.background_id
        self.answer_id = getattr(answer, "id", None) or self.answer_id
        if answer.error is not None:
            self.error_seen = True
            self.background_failed = self.background_failed or bool(background_id)

    @property
    def may_go_on(self) -> bool:
        """Return whether an answer is made in the background that nothing said the end of."""
        return bool(self.background_id) and not self.background_failed

    def _note_usage(self, usage: Usage) -> None:
        self.last = usage
        self.is_doubtful = not usage.is_plausible
        if not self.is_doubtful:
            self.usage = usage
            self.outdated = False

    def note_text(self, answer: Answer) -> None:
        """Take in the text of a JSON answer or one event."""
        text = answer.text()
        if text:
            self.text.append(text)
            self.chars += len(text)
            self.outdated = True

    def reported_usage(self) -> Usage | None:
        """Return the provider's counts of the whole answer, as far as it came.

        No output tokens beside a non-empty answer count as missing.
        """
        usage = self.usage
        if usage is None or self.outdated or (self.chars and not usage.output_total):
            return None
        return usage

    @property
    def output_tokens_seen(self) -> int:
        """Return roughly how many output tokens have passed so far."""
        return -(-self.chars // _CHARS_PER_TOKEN)


class PlainMeter:
    """Reads nothing: for routes that are not metered."""

    def __init__(self) -> None:
        self.seen = Observation()

    def feed(self, data: bytes) -> bytes:
        """Return `data`."""
        return data

    def end(self) -> bytes:
        """Return nothing: nothing was held back."""
        return b""

    @property
    def unfinished(self) -> int:
        """Return that no end of anything is known."""
        return _UNKNOWN


class JsonMeter:
    """Keeps a copy of a JSON answer and reads it at its end."""

    def __init__(self, wire: WireFormat) -> None:
        self.seen = Observation()
        self._read_answer = wire.read_answer
        self._copy: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Return `data`, keeping a copy within bounds."""
        self._size += len(data)
        if self._size <= _LONGEST_JSON:
            self._copy.append(data)
        else:
            self._copy.clear()
        return data

    def end(self) -> bytes:
        """Read the whole answer; leading blank lines are legal before JSON."""
        answer = self._read_answer(b"".join(self._copy).lstrip())
        self._copy.clear()
        if answer is not None:
            self.seen.note(answer)
        return b""

    @property
    def unfinished(self) -> int:
        """Return how many bytes of the last line have passed, 0 behind a whole one."""
        size = 0
        for piece in reversed(self._copy):
            at = piece.rfind(b"\n") + 1
            if at:
                return size + len(piece) - at
            size += len(piece)
        return size if self._size <= _LONGEST_JSON else _UNKNOWN


class StreamMeter:
    """Reads the events of a stream as they pass.

    With `hide_usage` an event waits until it is whole, and the one that reports only usage is taken
    out; otherwise every byte passes at once and the events are read from a copy.
    """

    def __init__(self, wire: WireFormat, *, hide_usage: bool) -> None:
        self.seen = Observation()
        self._read_answer = wire.read_answer
        self._may_be_only_text = wire.may_be_only_text
        self._is_usage_only = wire.is_usage_only
        self._longest_event = wire.longest_event
        self._splitter = EventSplitter()
        self._hide_usage = hide_usage
        self._passed = 0  # bytes of the unfinished event that went on
        self._is_unread = False  # the unfinished event is too long to be read
        self._last = b""

    def feed(self, data: bytes) -> bytes:
        """Return what may pass to the client now."""
        passing = [self._passing(event) for event in self._splitter.feed(data)]
        if self._splitter.held_back > _LONGEST_HELD_EVENT:
            passing.append(self._splitter.held(self._passed))
            self._passed = self._splitter.held_back
        if self._splitter.held_back > self._longest_event:
            self._splitter.forget()
            self._passed = self._splitter.held_back
            self._is_unread = True
        return b"".join(passing) if self._hide_usage else data

    def end(self) -> bytes:
        """Return what was held back; an unfinished last event is read as clients read it."""
        rest = self._passing(self._splitter.flush())
        return rest if self._hide_usage else b""

    @property
    def unfinished(self) -> int:
        """Return how many bytes of the last event have passed, 0 behind a whole one."""
        if self._is_unread:
            return _UNKNOWN
        return self._passed if self._hide_usage else self._splitter.held_back

    @property
    def next_number(self) -> int:
        """Return the `sequence_number` of the event that would follow, 0 if they have none."""
        found = _NUMBER.findall(self._last)
        return int(found[-1]) + 1 if found else 0

    def _passing(self, event: bytes) -> bytes:
        """Read one event; return what of it must still reach the client."""
        passed, self._passed = self._passed, 0
        is_unread, self._is_unread = self._is_unread, False
        if not is_unread and self._is_ours(event) and not passed:
            return b""
        return event[passed:]

    def _is_ours(self, event: bytes) -> bool:
        """Read one event; return whether only the gateway asked for it."""
        data = event_data(event)
        if not data or data == b"[DONE]":
            return False
        answer = self._read_answer(data)
        if answer is None:
            return False
        self._last = data
        if self.seen.model and self._may_be_only_text(data):
            self.seen.note_text(answer)
            return False
        self.seen.note(answer)
        return self._hide_usage and self._is_usage_only(data)


Meter = PlainMeter | JsonMeter | StreamMeter
