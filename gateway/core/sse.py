"""Server-sent events, sans I/O: bytes in, whole events out, every byte kept.

Source: the WHATWG event-stream grammar. Lines end with CR, LF or CRLF; an event ends at a blank
line. Splitting is done on bytes, so a character cut in two is never seen.
"""

import re
from itertools import pairwise

# Possessive: a CRLF may not be read as CR and LF, which would be a blank line.
_BLANK_LINE = re.compile(rb"(?:\r\n?+|\n)(?:\r\n?+|\n)")
_LONGEST_UNFINISHED_BLANK_LINE = 3
_LINE_ENDS = b"\r\n"
_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Collects bytes into events; what is not yet a whole event is held back.

    A held event is searched only from where the last bytes ended, however small the pieces are.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def held_back(self) -> int:
        """Return how many bytes wait for the end of their event."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that `data` completes, each with its blank line."""
        rest = self._rest
        if rest:
            searched = max(0, len(rest) - _LONGEST_UNFINISHED_BLANK_LINE)
            rest += data
            ends = _event_ends(rest, searched)
            if not ends:
                return []
            data = bytes(rest)
            rest.clear()
        elif b"\r" in data:
            ends = _event_ends(data, 0)
        else:
            *events, unfinished = data.split(b"\n\n")
            rest += unfinished
            return [event + b"\n\n" for event in events]
        rest += data[ends[-1] if ends else 0 :]
        return [data[start:end] for start, end in pairwise((0, *ends))]

    def held(self, start: int) -> bytes:
        """Return the bytes from `start` on that wait for the end of their event."""
        return bytes(self._rest[start:])

    def forget(self) -> None:
        """Drop what is held of an event, but for line ends that may be its last."""
        del self._rest[: len(self._rest.rstrip(_LINE_ENDS))]

    def flush(self) -> bytes:
        """Return what never became a whole event; clients read it as one at the end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def _event_ends(data: bytes | bytearray, start: int) -> list[int]:
    """Return where events end, as far as that is certain."""
    ends = [blank.end() for blank in _BLANK_LINE.finditer(data, start)]
    if ends and ends[-1] == len(data) and data.endswith(b"\r"):
        ends.pop()  # may be the first half of CRLF
    return ends


def event_data(event: bytes) -> bytes:
    """Return an event's data: its `data:` lines joined by LF, empty for comments and pings."""
    only = event.rstrip(_LINE_ENDS)
    if only.startswith(b"data: ") and b"\n" not in only and b"\r" not in only:
        return only[6:]
    lines = []
    for line in event.removeprefix(_BOM).splitlines():
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines)
