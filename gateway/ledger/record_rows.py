"""Rows of `records`: gateway keys and session bindings as the store told of them. No I/O."""

from typing import Any

import msgspec

from gateway.core.keys import GatewayKey
from gateway.core.sessions import Binding

_read_key = msgspec.json.Decoder(GatewayKey).decode
_read_binding = msgspec.json.Decoder(Binding).decode


def record_row(tenant: str, subject: str, document: str, number: int) -> dict[str, Any]:
    """Return a row for `key:<id>` or `session:<id>`; an empty document is the end of a binding.

    Keys count their versions; bindings are changed one after the other, in the order of the acts'
    numbers. Raises msgspec.MsgspecError for a document that is neither.
    """
    version, expires_ms = number, None
    if subject.startswith("key:"):
        version = _read_key(document).version
    elif document:
        expires_ms = _read_binding(document).expires_ms
    return {
        "tenant": tenant,
        "subject": subject,
        "version": version,
        "document": document or None,
        "expires_ms": expires_ms,
    }
