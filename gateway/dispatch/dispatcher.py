"""The dispatcher: does what the outbox says, again and again until it is done.

It runs beside the ledger's writer, in its process and only while that holds the ledger: so there is
one. What was done and not noted, because the process died in between, is done again: the roadmap
file knows its tasks, and receivers tell repetitions by the notice's id.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Table

from gateway.core.errors import LedgerError
from gateway.core.notices import Notice, NoticeKind
from gateway.core.webhook import WebhookPolicy
from gateway.dispatch.roadmap import RoadmapError
from gateway.dispatch.roadmap_file import add_to_roadmap
from gateway.dispatch.webhook import DeliveryError, WebhookSender
from gateway.ledger.database import ledger_errors
from gateway.ledger.outbox import (
    DEAD,
    DELIVERED,
    FAILED,
    PENDING,
    WRITTEN,
    Outbox,
    Row,
    deliveries_beside,
    due_deliveries,
    due_remediations,
    set_outcome,
)
from gateway.ledger.schema import DELIVERIES, REMEDIATIONS

_TICK_S = 0.05
_LOOK_S = 1.0
_BATCH = 50

Event = Callable[..., None]


@dataclass(frozen=True, slots=True)
class DispatchRules:
    """`roadmap_file` None: there is none. After attempt n the next one waits `backoff_s[n-1]`."""

    roadmap_file: Path | None = None
    backoff_s: tuple[float, ...] = (1, 2, 5, 10, 30, 60, 120, 300, 600)

    def wait_ms(self, attempts: int) -> int:
        """Return how long to wait after so many attempts have failed, milliseconds."""
        return int(self.backoff_s[min(attempts, len(self.backoff_s)) - 1] * 1000)


class Dispatcher:
    """Sends what the outbox of one ledger holds. `clock` is the time in seconds, as of the epoch.

    `may_send` tells whether this process holds the ledger. `event` is ports.Recorder.event.
    """

    def __init__(
        self,
        rules: DispatchRules,
        engine: Engine,
        outbox: Outbox,
        may_send: Callable[[], bool],
        event: Event,
        clock: Callable[[], float],
    ) -> None:
        self._rules = rules
        self._engine = engine
        self._outbox = outbox
        self._may_send = may_send
        self._event = event
        self._clock = clock
        self._sender = WebhookSender()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._noting_failure = asyncio.Lock()

    async def run(self) -> None:
        """Dispatch until cancelled."""
        loop, next_look = asyncio.get_running_loop(), 0.0
        try:
            while True:
                if self._outbox.has_news or loop.time() >= next_look:
                    self._outbox.has_news = False
                    await self._guarded(self.dispatch())
                    next_look = loop.time() + _LOOK_S
                await asyncio.sleep(_TICK_S)
        finally:
            busy = list(self._busy.values())
            for sending in busy:
                sending.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
            await self._sender.close()

    async def dispatch(self) -> None:
        """Write the remediations that are due, and begin to send what is. Raises LedgerError."""
        if not self._may_send():
            return
        if self._rules.roadmap_file is not None:
            for row in await asyncio.to_thread(self._read, due_remediations):
                await self._write(self._rules.roadmap_file, row)
        if self._outbox.webhooks:
            self._begin_to_send(await asyncio.to_thread(self._read, due_deliveries))

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Do something that may fail: it is still in the outbox then, and done again later."""
        try:
            await work
        except LedgerError:  # the writer tells of it
            pass
        except Exception as error:  # whatever it is, everything else goes on
            self._event("dispatch_failed", "error", error=f"{type(error).__name__}: {error}")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _read(self, find: Callable[[Connection, int, int], list[Row]]) -> list[Row]:
        with ledger_errors(), self._engine.connect() as connection:
            return find(connection, self._now_ms(), _BATCH)

    def _note(
        self, table: Table, row: Row, state: str, error: str | None, notices: Sequence[Notice] = ()
    ) -> None:
        """Note how an attempt ended, and what follows from that."""
        due_ms = self._now_ms() + self._rules.wait_ms(row["attempts"] + 1) if error else 0
        with ledger_errors(), self._engine.begin() as connection:
            set_outcome(connection, table, row, state, error, due_ms)
            self._outbox.insert(connection, notices)

    # Remediation --------------------------------------------------------------------------------

    async def _write(self, file: Path, row: Row) -> None:
        task: dict[str, Any] = msgspec.json.decode(row["document"])
        try:
            await asyncio.to_thread(add_to_roadmap, file, task)
        except (RoadmapError, OSError) as error:
            problem = f"{file}: {error.strerror if isinstance(error, OSError) else error}"
            await self._remediation_failed(row, problem)
            return
        self._event("remediation_written", "info", task=row["task"], remediation=row["name"])
        await asyncio.to_thread(self._note, REMEDIATIONS, row, WRITTEN, None)

    async def _remediation_failed(self, row: Row, problem: str) -> None:
        """Tell it once, and try again later."""
        told = []
        if row["attempts"] == 0:
            told.append(self._tell_of_failure(row, row["name"], row["episode"], problem))
        await asyncio.to_thread(self._note, REMEDIATIONS, row, FAILED, problem, told)

    def _tell_of_failure(self, row: Row, name: str, episode: int, problem: str) -> Notice:
        """Say that nobody has the remediation yet; its task is refused all the same (SL-7, EC12).

        `row` is that of the remediation, or of a delivery that was to tell of it.
        """
        message = f"Budget stop-loss triggered for {row['task']}, remediation task creation failed"
        self._event(
            "remediation_failed",
            "critical",
            message=message,
            task=row["task"],
            remediation=name,
            error=problem,
        )
        return Notice(
            NoticeKind.REMEDIATION_FAILED,
            str(episode),
            row["tenant"],
            row["task"],
            row["created_ms"],
            {"message": message, "remediation": name, "error": problem},
        )

    # Webhooks -----------------------------------------------------------------------------------

    def _begin_to_send(self, rows: Sequence[Row]) -> None:
        """Send what is due; a receiver that is slow holds up nobody else's notices."""
        loop = asyncio.get_running_loop()
        for name in {row["webhook"] for row in rows}:
            if name not in self._busy:
                due = [row for row in rows if row["webhook"] == name]
                self._busy[name] = loop.create_task(self._send_all(name, due))

    async def _send_all(self, name: str, rows: Sequence[Row]) -> None:
        webhook = next((one for one in self._outbox.webhooks if one.name == name), None)
        try:
            for row in rows:
                await self._guarded(self._send(webhook, row))
        finally:
            del self._busy[name]

    async def _send(self, webhook: WebhookPolicy | None, row: Row) -> None:
        if webhook is None:
            await self._bury(row, f"there is no webhook policy {row['webhook']}")
            return
        try:
            await self._sender.send(
                webhook, row["id"], row["kind"], row["body"].encode(), int(self._clock())
            )
        except DeliveryError as error:
            if row["attempts"] + 1 >= webhook.attempts:
                await self._bury(row, str(error))
                return
            if row["attempts"] == 0:
                self._tell("webhook_failed", "warning", row, str(error))
            await self._note_failure(row, PENDING, str(error))
            return
        await asyncio.to_thread(self._note, DELIVERIES, row, DELIVERED, None)

    async def _bury(self, row: Row, error: str) -> None:
        """Give up; the notice stays in the list of the dead."""
        self._tell("webhook_gave_up", "error", row, error)
        await self._note_failure(row, DEAD, error)

    async def _note_failure(self, row: Row, state: str, error: str) -> None:
        """Note that a webhook did not take a notice; one by one, so that each sees those before."""
        async with self._noting_failure:
            told = []
            if self._may_be_lost(row) and await asyncio.to_thread(self._was_last_hope, row):
                told.append(self._tell_of_lost_remediation(row, error))
            await asyncio.to_thread(self._note, DELIVERIES, row, state, error, told)

    def _may_be_lost(self, row: Row) -> bool:
        """Return whether a first failure is that of a remediation which no file has."""
        is_remediation = row["kind"] == NoticeKind.REMEDIATION.value
        return is_remediation and self._rules.roadmap_file is None and row["attempts"] == 0

    def _was_last_hope(self, row: Row) -> bool:
        """Return whether all other webhooks of a notice were tried, and none has taken it."""
        with ledger_errors(), self._engine.connect() as connection:
            others = deliveries_beside(connection, row)
        return all(other["attempts"] and other["state"] != DELIVERED for other in others)

    def _tell_of_lost_remediation(self, row: Row, error: str) -> Notice:
        document = msgspec.json.decode(row["body"])["data"]
        problem = f"webhook {row['webhook']}: {error}"
        episode = document["budget_breach"]["episode"]
        return self._tell_of_failure(row, document["id"], episode, problem)

    def _tell(self, name: str, level: str, row: Row, error: str) -> None:
        self._event(
            name, level, webhook=row["webhook"], notice=row["id"], kind=row["kind"], error=error
        )
