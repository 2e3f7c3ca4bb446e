"""A writer at work on a real store and a real database, driven step by step by a test."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Table, select

from gateway.core.call_facts import CallAbout, CallOutcome
from gateway.core.usage import Usage, UsageSource
from gateway.ledger.database import open_engine
from gateway.ledger.outbox import Outbox
from gateway.ledger.schema import CALLS
from gateway.ledger.verify import Comparison, Rebuilt, Verified
from gateway.ledger.writer import LedgerWriter, WriterRules
from gateway.ports import ReservePlan
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from tests.store.agent import Agent, settlement

PATIENCE_S = 30.0


@dataclass
class Desk:
    """One ledger of one tenant. `events` are what the writer said."""

    tenant: str
    store: StoreConnection
    url: str
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    outbox: Outbox = field(default_factory=Outbox)

    def __post_init__(self) -> None:
        self.engine: Engine = open_engine(self.url)
        self.keys = TenantKeys(self.tenant)

    def note(self, name: str, level: str = "info", **fields: Any) -> None:
        """Be ports.Recorder.event."""
        self.events.append((name, {"level": level, **fields}))

    def said(self, name: str) -> list[dict[str, Any]]:
        """Everything that was said under a name."""
        return [fields for known, fields in self.events if known == name]

    def writer(self, **rules: Any) -> LedgerWriter:
        """A writer that is not running yet."""
        rules = {"retention_days": 36_500, **rules}  # virtual time is long ago
        made = WriterRules(tenants=(self.tenant,), **rules)
        return LedgerWriter(made, self.store, self.engine, self.note, self.outbox)

    @asynccontextmanager
    async def writing(self, **rules: Any) -> AsyncIterator[LedgerWriter]:
        """Run a writer; at the end it stops in an orderly way."""
        writer = self.writer(**rules)
        running = asyncio.ensure_future(writer.run())
        try:
            yield writer
        finally:
            writer.stop()
            await running

    async def written(self, **rules: Any) -> None:
        """Let a writer write what is in the stream, and stop."""
        async with self.writing(**rules):
            await self.until_written()

    async def until_written(self) -> None:
        """Wait until the stream is empty."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.store.execute("XLEN", self.keys.ledger):
                await asyncio.sleep(0.01)

    def connect(self) -> Connection:
        """A connection to read with; close it."""
        return self.engine.connect()

    def rows(self, table: Table = CALLS, *order: str) -> list[dict[str, Any]]:
        """All rows of a table."""
        with self.connect() as connection:
            statement = select(table).order_by(*(table.c[name] for name in order or ("number",)))
            return [dict(row) for row in connection.execute(statement).mappings()]

    def call(self, call_id: str) -> dict[str, Any]:
        """The row of one call."""
        (row,) = [row for row in self.rows() if row["call_id"] == call_id]
        return row

    async def verify(self, only: str | None = None) -> Verified:
        """Compare the store and the ledger, the stream being empty."""
        with self.connect() as connection:
            return await Comparison(self.store, self.tenant, connection, _at_once).verify(only)

    async def rebuild(self) -> Rebuilt:
        """Give the store back what it lacks."""
        with self.connect() as connection:
            comparison = Comparison(self.store, self.tenant, connection, _at_once)
            return await comparison.rebuild(3_600_000)

    async def flush(self, also: Sequence[str] = ()) -> None:
        """Lose everything of the tenant, as FLUSHALL does of all."""
        found = await self.store.execute("KEYS", f"tg:{{{self.tenant}}}:*")
        await self.store.execute("DEL", *found, *also)


async def _at_once(_entry_id: str) -> None:
    return


async def call(
    agent: Agent, phase: str, tokens: int, *, ms: int, model: str = "m", estimated: bool = False
) -> ReservePlan:
    """A call of some milliseconds."""
    about = CallAbout(
        model=model,
        complexity=agent.facts.complexity.value,
        importance=agent.facts.importance.value,
    )
    plan, _ = await agent.reserve(phase, about=about)
    agent.at(int(agent.store.now_ms) + ms)
    source = UsageSource.ESTIMATED if estimated else UsageSource.PROVIDER
    outcome = CallOutcome(
        decision="allow",
        usage=Usage(input_total=tokens),
        source=source.value,
        priced=True,
        latency_ms=ms,
    )
    usage = outcome.usage
    await agent.store.settle(
        settlement(plan, tokens, tokens * 2, usage=usage, source=source, outcome=outcome)
    )
    return plan
