"""Changing the limits of a running task: an override, or the end of one.

What is in force is computed here from the snapshot and the overrides (`core/overrides.py`), and put
into the task's hash by one script if nobody changed it meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from gateway.core.budget import Dimension, TaskLimits
from gateway.core.errors import StoreError
from gateway.core.overrides import LimitsInForce, Override, OverrideKind, limits_in_force
from gateway.store.connection import Argument, StoreConnection
from gateway.store.keys import TenantKeys, limit_fields
from gateway.store.scripts import load_script

_ATTEMPTS = 20

Check = Callable[[TaskLimits, Sequence[Override], Override], None]
"""Raises what keeps an override from being made beside those in force, for a task's snapshot."""


class UnknownTask(StoreError):
    """There is no such task."""

    def __init__(self, task: str) -> None:
        super().__init__("unknown_task", f"there is no task {task}")


class NotEnoughRoom(StoreError):
    """A grant would leave the task above its line: `missing` more units of `dimension` would do."""

    def __init__(self, dimension: Dimension, missing: int) -> None:
        super().__init__(
            "not_enough_room", f"the grant leaves the task {missing:,} {dimension.value} short"
        )
        self.dimension = dimension
        self.missing = missing


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """What limits in force are computed from. `version` counts changes."""

    version: str
    snapshot: TaskLimits
    overrides: list[Override]


def encode_override(override: Override) -> str:
    """Return an override as one JSON line."""
    return msgspec.json.encode(override).decode()


def decode_override(text: str) -> Override:
    """Return the override that `encode_override` wrote."""
    return msgspec.json.decode(text, type=Override)


async def read_history(connection: StoreConnection, names: TenantKeys, task: str) -> TaskHistory:
    """Return a task's snapshot and overrides. Raises UnknownTask."""
    version, snapshot = await connection.execute("HMGET", names.task(task), "version", "snapshot")
    if snapshot is None:
        raise UnknownTask(task)
    history = await connection.execute("LRANGE", names.overrides(task), 0, -1)
    limits = msgspec.json.decode(snapshot, type=TaskLimits)
    return TaskHistory(version or "0", limits, [decode_override(text) for text in history])


async def apply_override(
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    override: Override,
    *,
    fields: Sequence[str] = (),
    now_ms: str = "",
    check: Check | None = None,
) -> LimitsInForce:
    """Put an override in force with the next call on every gateway; return the new limits.

    `fields` are field, value, ... to set with them. `check` sees what others did meanwhile. Raises
    UnknownTask, NotEnoughRoom, what `check` raises (then nothing was changed). `now_ms` replaces
    the store's clock in tests.
    """
    for _ in range(_ATTEMPTS):
        in_force = await _put_in_force(connection, names, task, override, now_ms, fields, check)
        if in_force is not None:
            return in_force
    raise StoreError("conflict", f"the limits of task {task} keep changing; try again")


async def refresh_limits(
    connection: StoreConnection, names: TenantKeys, task: str, *, now_ms: str = ""
) -> None:
    """Compute the limits anew after an override has run out by time.

    If somebody else changes them meanwhile, that was done from the same history: nothing is lost.
    """
    await _put_in_force(connection, names, task, None, now_ms)


async def _put_in_force(
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    new: Override | None,
    now_ms: str,
    fields: Sequence[str] = (),
    check: Check | None = None,
) -> LimitsInForce | None:
    """Return the limits now in force, None if somebody else changed them meanwhile."""
    history = await read_history(connection, names, task)
    now_ms = now_ms or str(await _store_ms(connection, names))
    if new is not None and check is not None:
        live = [override for override in history.overrides if override.in_force(int(now_ms))]
        check(history.snapshot, live, new)
    overrides = [*history.overrides, *([new] if new else [])]
    in_force = limits_in_force(history.snapshot, overrides, int(now_ms))
    args: list[Argument] = [
        now_ms,
        history.version,
        encode_override(new) if new else "",
        ",".join(_granted(new)) if new else "",
        int(new is not None and new.kind is OverrideKind.RESUME),
        "" if in_force.expires_ms is None else in_force.expires_ms,
        *limit_fields(in_force),
        *fields,
    ]
    keys = [
        names.clock,
        names.task(task),
        names.overrides(task),
        names.tasks,
        names.ledger,
    ]
    reply = await connection.run(load_script("override"), keys, args)
    if reply[0] == "short":
        raise NotEnoughRoom(Dimension(reply[1]), int(reply[2]))
    if reply[0] == "absent":
        raise UnknownTask(task)
    return in_force if reply[0] == "applied" else None


def _granted(override: Override) -> list[str]:
    """Return the dimensions in which `override` must leave room: those it grants something in."""
    if override.kind is not OverrideKind.GRANT:
        return []
    return [dimension.value for dimension, amount in override.amounts.items() if amount]


async def _store_ms(connection: StoreConnection, names: TenantKeys) -> int:
    """Return the tenant's time as scripts see it: the server's, but never running back."""
    latest = await connection.execute("GET", names.clock)
    return max(await server_ms(connection), int(latest or 0) // 1000)


async def server_ms(connection: StoreConnection) -> int:
    """Return the store's time in milliseconds."""
    seconds, micros = await connection.execute("TIME")
    return int(seconds) * 1000 + int(micros) // 1000
