"""What the admin plane is built from, and how its handlers get at it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from gateway.admin.roles import AdminAccess
from gateway.core.configuration import DataPlane, Rules
from gateway.core.errors import LedgerError
from gateway.core.statistics import Statistics
from gateway.reports.report import Report
from gateway.store.connection import StoreConnection
from gateway.store.correction import Charge
from gateway.store.keys import TenantKeys
from gateway.store.task_view import TaskView
from gateway.telemetry.counters import Counters
from gateway.telemetry.feed import EventFeed


@dataclass(frozen=True)
class LedgerHealth:
    """How the ledger is doing. Nothing of this keeps a call from being served.

    `waiting` entries are in the stream and not in the database, the oldest for `lag_ms`; `lost`
    were dropped because the stream was full. `alarming` are statistics with a value, and whether
    each is beyond its threshold; empty where another gateway writes the ledger.
    """

    writing: bool = False
    size_bytes: int = 0
    waiting: int = 0
    lag_ms: int = 0
    lost: int = 0
    alarming: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    """How the gateway is doing. `config_source` is `file` or `defaults`.

    `store_connected` is the supervisor's own view; `workers_without_store` accept calls but get no
    answers from the store. `refuses_without_store`: policies answer calls 503 then. The journal
    holds settlements that the store has not taken yet. `lacks_translator`: calls to translated
    upstreams are answered 502 for the time being. `gateways_with_other_rules` share the store.
    `enforcement_switched_off` is the switch of `/admin/v1/enforcement`.
    """

    workers_ready: int
    workers_wanted: int
    store_connected: bool
    config_source: str
    config_hash: str
    policy_hash: str
    draining: bool
    open_calls: int
    uptime_s: float
    version: str
    ledger: LedgerHealth = LedgerHealth()
    workers_without_store: int = 0
    refuses_without_store: bool = False
    lacks_translator: bool = False
    gateways_with_other_rules: tuple[str, ...] = ()
    enforcement_switched_off: bool = False
    journal_entries: int = 0
    journal_bytes: int = 0

    @property
    def store_up(self) -> bool:
        """Return whether the store answers everybody here."""
        return self.store_connected and not self.workers_without_store


ReadOutbox = Callable[[str, str, str, str, int], Sequence[Mapping[str, Any]]]
"""Gives a tenant's `remediations` or `deliveries`, of a task and in a state if those are not empty.

It waits for the database, and raises LedgerError.
"""


def no_outbox(
    _table: str, _tenant: str, _task: str, _state: str, _most: int
) -> Sequence[Mapping[str, Any]]:
    """Be the ledger of a gateway that has none."""
    raise LedgerError("there is no ledger here")


ReadPage = Callable[[str, str, Mapping[str, str], int | None, int], Sequence[Mapping[str, Any]]]
"""Gives a tenant's `breaches` or `audit` entries, latest first, as `ledger/pages.py` says."""

ReadReport = Callable[[str, str, TaskView | None, int], Report | None]
"""Gives the report of a tenant's task, at a time in ms, as `reports/reading.py` says."""


ReadStatistics = Callable[[str, int, int, bool], Statistics]
"""Gives a tenant's figures of a period in ms, by complexity or not; waits, raises LedgerError."""


def no_statistics(
    _tenant: str, _since_ms: int, _until_ms: int, _by_complexity: bool, /
) -> Statistics:
    """Be the ledger of a gateway that has none."""
    raise LedgerError("there is no ledger here")


class LedgerFollower(Protocol):
    """Reads on in a tenant's `breaches` or `audit`, over a connection that it keeps.

    It waits for the database; both ways to read raise LedgerError.
    """

    def last_number(self, table: str, tenant: str, /) -> int:
        """Return the number of the last row, 0 if there is none."""
        ...

    def read_on(
        self, table: str, tenant: str, above: int, most: int, /
    ) -> Sequence[Mapping[str, Any]]:
        """Return rows with numbers above one, in their order, as `ledger/pages.py` says."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class NoLedger:
    """Be the LedgerFollower of a gateway that has no ledger."""

    def last_number(self, _table: str, _tenant: str, /) -> int:
        """Raise LedgerError."""
        raise LedgerError("there is no ledger here")

    def read_on(
        self, _table: str, _tenant: str, _above: int, _most: int, /
    ) -> Sequence[Mapping[str, Any]]:
        """Raise LedgerError."""
        raise LedgerError("there is no ledger here")

    def close(self) -> None:
        """Do nothing."""


Reload = Callable[[str], Awaitable[Sequence[str]]]
"""Reads the rules anew, for a cause; returns what is wrong with them, then nothing has changed."""


def no_page(
    _table: str, _tenant: str, _wanted: Mapping[str, str], _below: int | None, _most: int
) -> Sequence[Mapping[str, Any]]:
    """Be the ledger of a gateway that has none."""
    raise LedgerError("there is no ledger here")


async def no_reload(_cause: str) -> Sequence[str]:
    """Be the files of a gateway that has none."""
    return ()


def no_charge(_tenant: str, _call_id: str) -> Charge | None:
    """Be the ledger of a gateway that has none."""
    raise LedgerError("there is no ledger here")


NO_PLANE = DataPlane("")


@dataclass(frozen=True)
class AdminParts:
    """Everything that the admin plane sees of the gateway. `event` is `ports.Recorder.event`.

    `read_charge` gives the charge of a tenant's call from the ledger, None for one that it does not
    know; it waits for the database, and raises LedgerError.
    `read_report` None: reports are switched off. `monthly_nano_usd` is what the gateway costs to
    run, None if nobody said.
    `accesses` are tokens beside `token`; `feed` is for those who watch, and `follow_ledger` makes
    what each of them reads the ledger with; close it in the end.
    """

    connection: StoreConnection
    names: TenantKeys
    token: str
    health: Callable[[], Health]
    counters: Counters
    event: Callable[..., None]
    rules: Callable[[], Rules]
    plane: DataPlane = NO_PLANE
    read_charge: Callable[[str, str], Charge | None] = no_charge
    read_outbox: ReadOutbox = no_outbox
    read_page: ReadPage = no_page
    read_statistics: ReadStatistics = no_statistics
    reload: Reload = no_reload
    read_report: ReadReport | None = None
    follow_ledger: Callable[[], LedgerFollower] = NoLedger
    feed: EventFeed = field(default_factory=EventFeed)
    accesses: tuple[AdminAccess, ...] = ()
    monthly_nano_usd: int | None = None


PARTS = web.AppKey("parts", AdminParts)
STORE_WAIT_S = web.AppKey("store_wait_s", float)
