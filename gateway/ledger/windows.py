"""Windows of spend limits: what the ledger's calls add up to in each, and giving that back.

A row of `calls` names the windows in which the call was let through. So nothing needs to be known
of today's policies, and a window is made of exactly those calls that were counted in it.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, select

from gateway.core.windows import latest_end_ms
from gateway.ledger.schema import CALLS, CARRIED
from gateway.ledger.sums import TOTALS
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import server_ms
from gateway.store.restore import Audit, read_windows, restore_window

# What a window has in the store; in `carried` it stands under this prefix in place of a task.
FIELDS = ("tokens.S", "nano_usd.S", "calls.S")
PREFIX = "window:"

# The store keeps a window for so long after its end, for corrections (store/lua/limits.lua).
_KEPT_MS = 26 * 3_600_000
_BATCH = 2_000
_SCANNED = 1_000
_FROM_THE_START = "0"
_EVER = 1 << 62  # a number that no act has yet
_LOOKS = 3  # the charge of a call that expired may be mended while one looks

WindowSums = Mapping[str, Mapping[str, int]]


def kept_until_ms(window: str) -> int:
    """Return until when the store may need a window, by its name; 0: for good."""
    ends = latest_end_ms(window.partition("@")[2])
    return ends + _KEPT_MS if ends else 0


def is_needed(window: str, now_ms: int) -> bool:
    """Return whether the store may still need a window."""
    until_ms = kept_until_ms(window)
    return not until_ms or now_ms < until_ms


def sums_of_calls(connection: Connection, chosen: ColumnElement[bool]) -> WindowSums:
    """Return what some calls add up to in each window that they count in."""
    sums: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for windows, *amounts in connection.execute(
        select(CALLS.c.windows, *(TOTALS[field] for field in FIELDS))
        .where(chosen, CALLS.c.windows.is_not(None))
        .group_by(CALLS.c.windows)
    ):
        for window in windows.split():
            for field, amount in zip(FIELDS, amounts, strict=True):
                sums[window][field] += int(amount)
    return sums


def window_sums(connection: Connection, tenant: str, up_to: int) -> WindowSums:
    """Return the sums of all windows over what has a sequence number up to `up_to`."""
    chosen = (CALLS.c.tenant == tenant) & (CALLS.c.number <= up_to)
    sums = {name: dict(fields) for name, fields in sums_of_calls(connection, chosen).items()}
    for task, field, amount in connection.execute(
        select(CARRIED.c.task, CARRIED.c.field, CARRIED.c.amount).where(
            CARRIED.c.tenant == tenant, CARRIED.c.task.like(f"{PREFIX}%")
        )
    ):
        fields = sums.setdefault(task.removeprefix(PREFIX), {})
        fields[field] = fields.get(field, 0) + amount
    return sums


def forget_windows(connection: Connection, tenant: str, now_ms: int) -> None:
    """Delete what is carried of windows that nobody needs any more; within a transaction."""
    carried = CARRIED.c
    of_tenant = (carried.tenant == tenant) & carried.task.like(f"{PREFIX}%@%")
    for name in connection.scalars(select(carried.task).where(of_tenant).distinct()).all():
        if not is_needed(name.removeprefix(PREFIX), now_ms):
            connection.execute(delete(CARRIED).where(of_tenant, carried.task == name))


class WindowDifference(NamedTuple):
    """One figure of a window on which the store and the ledger do not agree."""

    window: str
    field: str
    store: int
    ledger: int


async def known_windows(store: StoreConnection, tenant: str, ledger: Connection) -> list[str]:
    """Return the windows that either side knows, of whatever time. Raises StoreError."""
    pattern = TenantKeys(tenant).window_named("*")
    known, at = set(window_sums(ledger, tenant, _EVER)), _FROM_THE_START
    ledger.rollback()
    while True:
        at, keys = await store.execute("SCAN", at, "MATCH", pattern, "COUNT", _SCANNED)
        known.update(key[len(pattern) - 1 :] for key in keys)
        if at == _FROM_THE_START:
            return sorted(known)


async def compare_windows(
    store: StoreConnection,
    tenant: str,
    ledger: Connection,
    catch_up: Callable[[str], Awaitable[None]],
    windows: Sequence[str],
) -> list[WindowDifference]:
    """Return where the two sides do not agree, both looked at at the same number.

    One that the store has rightly forgotten by its own time is left out. Raises StoreError and
    LedgerError.
    """
    audit, sums = await _both(store, TenantKeys(tenant), ledger, catch_up, windows)
    now_ms = await server_ms(store)
    found = []
    for window in windows:
        there, here = audit.tasks[window], sums.get(window, {})
        if not there and not is_needed(window, now_ms):
            continue
        for field in FIELDS:
            stored, summed = int(there.get(field) or 0), here.get(field, 0)
            if stored != summed:
                found.append(WindowDifference(window, field, stored, summed))
    return found


async def give_back_windows(
    store: StoreConnection,
    tenant: str,
    ledger: Connection,
    catch_up: Callable[[str], Awaitable[None]],
    go_on: Callable[[], Awaitable[None]],
) -> int:
    """Add to the store's windows what the ledger has and they lack; return how many lacked any.

    Windows that are over at the ledger's latest call are left out. `catch_up` and `go_on` are as in
    `verify`.
    """
    names, restored = TenantKeys(tenant), set[str]()
    now_ms = ledger.scalar(select(func.max(CALLS.c.at_ms)).where(CALLS.c.tenant == tenant)) or 0
    known = window_sums(ledger, tenant, _EVER)
    ledger.rollback()
    needed = sorted(window for window in known if is_needed(window, now_ms))
    for batch in _batches(needed):
        for _ in range(_LOOKS):
            await go_on()
            lacking = await _lacking(store, names, ledger, catch_up, batch)
            for window, added in lacking.items():
                until_ms = kept_until_ms(window)
                keep_ms = until_ms - now_ms if until_ms else None
                await restore_window(store, names, window, added, keep_ms)
            restored.update(lacking)
            if not lacking:
                break
    return len(restored)


async def _lacking(
    store: StoreConnection,
    names: TenantKeys,
    ledger: Connection,
    catch_up: Callable[[str], Awaitable[None]],
    windows: Sequence[str],
) -> Mapping[str, Mapping[str, int]]:
    """Return what the store lacks of some windows, both sides looked at at the same number."""
    audit, sums = await _both(store, names, ledger, catch_up, windows)
    lacking = {}
    for window in windows:
        there, here = audit.tasks[window], sums.get(window, {})
        more = {field: here.get(field, 0) - int(there.get(field) or 0) for field in FIELDS}
        if added := {field: amount for field, amount in more.items() if amount > 0}:
            lacking[window] = added
    return lacking


async def _both(
    store: StoreConnection,
    names: TenantKeys,
    ledger: Connection,
    catch_up: Callable[[str], Awaitable[None]],
    windows: Sequence[str],
) -> tuple[Audit, WindowSums]:
    audit = await read_windows(store, names, windows)
    await catch_up(audit.last_entry)
    sums = window_sums(ledger, names.tenant, audit.number)
    ledger.rollback()  # the next look must not see an old snapshot
    return audit, sums


def _batches(items: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
