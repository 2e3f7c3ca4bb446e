"""Server-sent events, sans I/O: bytes in, whole events out, every byte kept.

Source: the WHATWG event-stream grammar. Lines end with CR, LF or CRLF; an event ends at a blank
line. Splitting is done on bytes, so a character cut in two is never seen.
"""

import re

# Atomic groups: a CRLF may not be read as CR and LF, which would be a blank line.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Collects bytes into events; what is not yet a whole event is held back."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def held_back(self) -> int:
        """Return how many bytes wait for the end of their event."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that `data` completes, each with its blank line."""
        if self._rest:
            data = self._rest + data
        if b"\r" not in data:
            *events, self._rest = data.split(b"\n\n")
            return [event + b"\n\n" for event in events]
        return self._feed_any_line_end(data)

    def _feed_any_line_end(self, data: bytes) -> list[bytes]:
        events, start = [], 0
        for blank in _BLANK_LINE.finditer(data):
            end = blank.end()
            if end == len(data) and data[-1:] == b"\r":
                break  # may be the first half of CRLF
            events.append(data[start:end])
            start = end
        self._rest = data[start:]
        return events

    def flush(self) -> bytes:
        """Return what never became a whole event; clients read it as one at the end."""
        rest, self._rest = self._rest, b""
        return rest


def event_data(event: bytes) -> bytes:
    """Return an event's data: its `data:` lines joined by LF, empty for comments and pings."""
    if event.startswith(b"data: ") and event.find(b"\n") >= len(event) - 2 and b"\r" not in event:
        return event[6:].rstrip(b"\n")
    lines = []
    for line in event.removeprefix(_BOM).splitlines():
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines)
