"""What the fake provider is told to do: sizes, pacing and faults of one answer."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

_BARE_FAULTS = {"", "missing_usage", "zero_usage", "truncate", "hang", "reset"}
_NUMBERED_FAULTS = {"cut", "status", "error_event", "hang", "no_stream_options"}
_LINE_ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}


class ScriptError(ValueError):
    """A script asks for something that cannot be played."""


class Fault(NamedTuple):
    """A parsed fault: its kind ("" for none) and its number, if it has one."""

    kind: str
    number: int | None = None

    @property
    def replaces_answer(self) -> bool:
        """Whether nothing of the proper answer is ever made: it costs no tokens."""
        return self.kind in ("status", "reset") or (self.kind == "hang" and self.number is None)


@functools.lru_cache(maxsize=256)
def parse_fault(text: str) -> Fault:
    """Read `kind` or `kind:N`. Raises ScriptError for a fault that does not exist."""
    kind, colon, number = text.partition(":")
    if not colon and kind in _BARE_FAULTS:
        return Fault(kind)
    if kind in _NUMBERED_FAULTS and number.isascii() and number.isdigit():
        return Fault(kind, int(number))
    raise ScriptError(f"no such fault: {text!r}")


@dataclass(frozen=True)
class Script:
    """How one call is answered. Token counts are per choice (`n`); one streamed chunk is one token.

    `prompt_tokens` None means a real count of the request. `reasoning_tokens` are part of
    `completion_tokens` and are never shown; the rest is visible text, or the arguments of a tool
    call. `content` replaces the made-up text and is spread over the same number of tokens.
    `ttfb_ms` passes before the first byte, `chunk_delay_ms` between two streamed tokens.

    `pieces` are the sizes of the first TCP writes, `slice_bytes` (if positive) of all further
    ones, with the loop coming round in between. `line_end` ends the lines of a stream: LF, CRLF
    or CR.

    `fault` is one of

    - ``missing_usage``, ``zero_usage``: the answer is whole but its usage is left out, or all zero;
    - ``cut:N``: the connection is closed after N tokens of a stream, or N bytes of another body;
    - ``truncate``: the chunked body is complete but for its last chunk, then the connection closes;
    - ``status:NNN``: an error of that status, with ``retry-after: 1`` for 429 and 529;
    - ``no_stream_options:NNN``: an error of that status for a request with ``stream_options``;
    - ``error_event:N``: a stream says ``error`` after N tokens, ends, and the connection closes;
      an answer that is not streamed is a 200 with an error in its body;
    - ``hang``: no answer, ever; ``hang:N``: it stalls where ``cut:N`` would close;
    - ``reset``: the connection is reset before any byte.
    """

    prompt_tokens: int | None = None
    completion_tokens: int = 20
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    ttfb_ms: int = 0
    chunk_delay_ms: int = 0
    fault: str = ""
    tool_call: bool = False
    content: str | None = None
    pieces: tuple[int, ...] = ()
    slice_bytes: int = 0
    line_end: str = "\n"

    def __post_init__(self) -> None:
        """Raise ScriptError now for what could not be played later."""
        parse_fault(self.fault)
        if self.line_end not in _LINE_ENDS.values():
            raise ScriptError(f"no such line end: {self.line_end!r}")
        if self.slice_bytes < 0 or any(size <= 0 for size in self.pieces):
            raise ScriptError("a write needs at least one byte")

    @property
    def broken(self) -> Fault:
        """The fault, parsed."""
        return parse_fault(self.fault)

    @property
    def is_sliced(self) -> bool:
        """Whether the sizes of the TCP writes are prescribed."""
        return self.slice_bytes > 0 or bool(self.pieces)


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ScriptError(f"not a count: {value!r}")
    return int(value)


def _line_end(value: str) -> str:
    try:
        return _LINE_ENDS[value.lower()]
    except KeyError:
        raise ScriptError(f"no such line end: {value!r}") from None


_OVERRIDES: dict[bytes, tuple[str, Callable[[str], Any]]] = {
    b"x-fake-prompt-tokens": ("prompt_tokens", _count),
    b"x-fake-completion-tokens": ("completion_tokens", _count),
    b"x-fake-cached-tokens": ("cached_tokens", _count),
    b"x-fake-reasoning-tokens": ("reasoning_tokens", _count),
    b"x-fake-ttfb-ms": ("ttfb_ms", _count),
    b"x-fake-chunk-delay-ms": ("chunk_delay_ms", _count),
    b"x-fake-fault": ("fault", str),
    b"x-fake-tool-call": ("tool_call", lambda value: value.lower() in ("1", "true", "yes")),
    b"x-fake-content": ("content", str),
    b"x-fake-slice-bytes": ("slice_bytes", _count),
    b"x-fake-line-end": ("line_end", _line_end),
}


@functools.lru_cache(maxsize=1024)
def override(base: Script, headers: tuple[tuple[bytes, bytes], ...]) -> Script:
    """The script with the `x-fake-*` headers (names in lower case) laid over it.

    Raises ScriptError for a header that does not exist or cannot be read.
    """
    changes: dict[str, Any] = {}
    for name, value in headers:
        if name not in _OVERRIDES:
            raise ScriptError(f"no such header: {name.decode('latin-1')}")
        field, read = _OVERRIDES[name]
        changes[field] = read(value.decode("utf-8", "replace"))
    return replace(base, **changes)
