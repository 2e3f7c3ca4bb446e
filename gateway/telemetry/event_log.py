"""The log: one JSON object a line on stderr, or plain text for people. Never a prompt, never a key.

Lines are collected and written together a little later, so that a call does not wait for the
terminal; a `critical` or `error` line takes the collected ones with it at once.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import msgspec

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_AT_ONCE = _LEVELS["error"]
_MOST_COLLECTED = 500


class ByteSink(Protocol):
    """Where lines go: the binary side of stderr."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""

    def flush(self) -> object:
        """Pass them on."""


class EventLog:
    """Writes events of a level and above. `wall_clock` gives seconds since the epoch."""

    def __init__(
        self, sink: ByteSink, wall_clock: Callable[[], float], *, form: str, level: str, source: str
    ) -> None:
        self._sink = sink
        self._wall_clock = wall_clock
        self._as_text = form == "text"
        self._least = _LEVELS[level]
        self._source = source
        self._lines: list[bytes] = []

    def write(self, name: str, level: str, fields: dict[str, object]) -> None:
        """Take note of an event."""
        rank = _LEVELS[level]
        if rank < self._least:
            return
        moment = datetime.fromtimestamp(self._wall_clock(), UTC).isoformat(timespec="milliseconds")
        if self._as_text:
            rest = " ".join(f"{key}={_on_one_line(value)}" for key, value in fields.items())
            self._lines.append(f"{moment[11:23]} {level:<8} {name} {rest}\n".encode())
        else:
            line = {"time": moment, "level": level, "event": name, "from": self._source, **fields}
            self._lines.append(_as_json(line) + b"\n")
        if rank >= _AT_ONCE or len(self._lines) >= _MOST_COLLECTED:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._sink.write(b"".join(lines))
            self._sink.flush()


def _as_json(line: dict[str, object]) -> bytes:
    try:
        return msgspec.json.encode(line, enc_hook=str)
    except UnicodeEncodeError:  # half a surrogate pair: a path that is no UTF-8, for one
        return json.dumps(line, default=str).encode()


def _on_one_line(value: object) -> str:
    """Return a value as text that cannot start a line of its own."""
    text = str(value)
    return text if text.isprintable() else repr(text)
