"""Taking note of calls and events, and counting tokens."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from gateway.core.decision import Breach
from gateway.core.identity import Dialect
from gateway.core.usage import Usage


class CallRecord(Struct, frozen=True):
    """A finished call, for the ledger, the metrics and the log. Times in milliseconds.

    `passed_over` names the upstreams that failed before the one that served, each with the reason.
    """

    call_id: str
    tenant: str
    key: str
    task: str
    phase: str
    complexity: str
    importance: str
    method: str
    path: str
    upstream: str
    dialect: str
    model: str
    stream: bool
    status: int
    outcome: str
    code: str
    would_refuse: bool
    breaches: tuple[Breach, ...]
    usage: Usage
    source: str
    tokens: int
    nano_usd: int | None
    held_tokens: int
    latency_ms: float
    first_byte_ms: float
    client_left: bool
    store_failed: bool
    passed_over: tuple[str, ...] = ()
    overhead_ms: float | None = None


class Recorder(Protocol):
    """Takes note of what happened; never fails, never waits."""

    def call(self, record: CallRecord) -> None:
        """Record a finished call."""

    def event(self, name: str, level: str = "info", **fields: object) -> None:
        """Record something noteworthy: a trip, a notice level, a failure."""


class Tokenizer(Protocol):
    """Counts tokens by the encoding of `core.model_text`, off the event loop. Never raises."""

    async def count(self, model: str, texts: Sequence[str]) -> int:
        """Return the tokens of all texts together; an estimate where they cannot be counted."""

    async def count_request(self, model: str, dialect: Dialect, body: bytes) -> int | None:
        """Return the tokens of a request's text with its frame; None if they cannot be counted."""
