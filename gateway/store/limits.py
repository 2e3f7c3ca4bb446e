"""Changing the limits of a running task: an override, or the end of one.

What is in force is computed here from the snapshot and the overrides (`core/overrides.py`), and put
into the task's hash by one script if nobody changed it meanwhile.
"""

from dataclasses import dataclass

import msgspec

from gateway.core.budget import Dimension, TaskLimits
from gateway.core.errors import StoreError
from gateway.core.overrides import LimitsInForce, Override, OverrideKind, limits_in_force
from gateway.store.connection import Argument, StoreConnection
from gateway.store.keys import TenantKeys, limit_fields
from gateway.store.scripts import load_script

_ATTEMPTS = 20


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
    connection: StoreConnection, names: TenantKeys, task: str, override: Override
) -> LimitsInForce:
    """Put an override in force with the next call on every gateway; return the new limits.

    Raises UnknownTask, NotEnoughRoom (then nothing was changed).
    """
    needs_room = [
        dimension.value
        for dimension, amount in override.amounts.items()
        if override.kind is OverrideKind.GRANT and amount
    ]
    resume = override.kind is OverrideKind.RESUME
    return await _put_in_force(connection, names, task, override, needs_room, resume)


async def refresh_limits(connection: StoreConnection, names: TenantKeys, task: str) -> None:
    """Compute the limits anew after an override has run out by time."""
    await _put_in_force(connection, names, task, None, [], False)


async def _put_in_force(  # the two ways in differ only in what they add
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    new: Override | None,
    needs_room: list[str],
    resume: bool,
) -> LimitsInForce:
    for _ in range(_ATTEMPTS):
        history = await read_history(connection, names, task)
        now_ms = await server_ms(connection)
        overrides = [*history.overrides, *([new] if new else [])]
        in_force = limits_in_force(history.snapshot, overrides, now_ms)
        args: list[Argument] = [
            "",
            history.version,
            encode_override(new) if new else "",
            ",".join(needs_room),
            int(resume),
            "" if in_force.expires_ms is None else in_force.expires_ms,
            *limit_fields(in_force),
        ]
        keys = [names.clock, names.task(task), names.overrides(task)]
        reply = await connection.run(load_script("override"), keys, args)
        if reply[0] == "applied":
            return in_force
        if reply[0] == "short":
            raise NotEnoughRoom(Dimension(reply[1]), int(reply[2]))
        if reply[0] == "absent":
            raise UnknownTask(task)
    raise StoreError("conflict", f"the limits of task {task} keep changing; try again")


async def server_ms(connection: StoreConnection) -> int:
    """Return the store's time in milliseconds."""
    seconds, micros = await connection.execute("TIME")
    return int(seconds) * 1000 + int(micros) // 1000
