"""Session bindings: an orchestrator says which task a client's session works for (GW-9).

Agent programs cannot change their headers in mid-session, but they send the id of their session
with each call. A binding gives such calls a task, and a phase if it has one; whatever the call says
itself goes first.
"""

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from gateway.core.headers import RULES, Headers
from gateway.core.phases import WorkPhase

UNBOUND = "-"
SESSION_HEADERS = ("x-claude-code-session-id", "session-id", "session_id")
SESSION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Binding(Struct, frozen=True, omit_defaults=True):
    """What a session is bound to, by whom, and until when. Moments are store milliseconds."""

    task: str
    phase: WorkPhase | None = None
    bound_by: str = ""
    bound_ms: int = 0
    expires_ms: int = 0


_decode = msgspec.json.Decoder(Binding).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


class Session(Struct, frozen=True):
    """A session as a worker knows it: the text that the store has, and what it means.

    `text` is `UNBOUND` for a session that is bound to nothing. It goes with every reserve, which
    compares it: so a change holds with the next call on every gateway.
    """

    id: str
    text: str = UNBOUND
    binding: Binding | None = None


def session_of(session_id: str, text: str | None) -> Session:
    """Return a session by the text that the store has for it, None where it has none."""
    return Session(session_id) if text is None else Session(session_id, text, _decode(text))


def binding_text(binding: Binding) -> str:
    """Return the text that `session_of` reads."""
    return _encode(binding).decode()


def session_id(headers: Headers, names: Sequence[str]) -> str:
    """Return the id of the session that a call belongs to, empty if it names none.

    `names` are lower-case names of headers, of which the first that is there counts.
    """
    found = {
        lower: value
        for name, value in headers
        if (lower := RULES[name].lower.decode("latin-1")) in names
    }
    for name in names:
        text = found.get(name, b"").decode("latin-1").strip()
        if SESSION_PATTERN.fullmatch(text):
            return text
    return ""
