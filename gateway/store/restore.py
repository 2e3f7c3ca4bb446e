"""Reading totals to compare with the ledger, and giving back what the store has lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from gateway.core.errors import StoreError
from gateway.store.connection import Argument, StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.scripts import load_script

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Audit:
    """Hashes of tasks, or of windows, at one moment: all up to the act `number` is in them.

    `last_entry` is the id of the stream's latest entry then; one that is not there has no field.
    """

    number: int
    last_entry: str
    tasks: Mapping[str, Fields]


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a task is given back. `limits` empty leaves snapshot, limits and overrides alone.

    `added` is added, `missing` set where there is nothing, of `least` the larger is kept. `version`
    is that of the limits it was made from, '' for a task that is not there.
    """

    task: str
    created_ms: int
    version: str
    limits: Sequence[str] = ()
    overrides: Sequence[str] = ()
    added: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)
    trip: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is left of a call that has ended."""

    call_id: str
    state: str
    phase: str
    execution: int
    tokens: int
    nano_usd: int
    windows: str = ""


async def read_audit(connection: StoreConnection, names: TenantKeys, tasks: Sequence[str]) -> Audit:
    """Return tasks as they stand at one moment. Raises StoreError."""
    return await _read(connection, names, {task: names.task(task) for task in tasks})


async def read_windows(
    connection: StoreConnection, names: TenantKeys, windows: Sequence[str]
) -> Audit:
    """Return windows of spend limits as they stand at one moment, by name. Raises StoreError."""
    return await _read(connection, names, {name: names.window_named(name) for name in windows})


async def _read(connection: StoreConnection, names: TenantKeys, of: Mapping[str, str]) -> Audit:
    keys = [names.clock, names.ledger, *of.values()]
    number, last_entry, *hashes = await connection.run(load_script("audit"), keys, [])
    return Audit(
        int(number),
        last_entry,
        {
            name: dict(zip(raw[::2], raw[1::2], strict=True))
            for name, raw in zip(of, hashes, strict=True)
        },
    )


async def restore_window(
    connection: StoreConnection,
    names: TenantKeys,
    window: str,
    added: Mapping[str, int],
    keep_ms: int | None,
) -> None:
    """Add to a window's totals; one that is not there is kept so long. Raises StoreError."""
    args: list[Argument] = ["" if keep_ms is None else keep_ms, *_flat(added)]
    await connection.run(load_script("restore_window"), [names.window_named(window)], args)


async def restore_task(
    connection: StoreConnection, names: TenantKeys, what: Restoration, now_ms: str = ""
) -> bool:
    """Give a task back what it lost; False if its limits were changed meanwhile: look again."""
    is_task = not what.task.startswith("-")
    args: list[Argument] = [
        now_ms,
        what.task if is_task else "",
        what.created_ms,
        what.version,
        _json(what.limits),
        _json(what.overrides),
        _json(_flat(what.added)),
        _json(_flat(what.missing)),
        _json(_flat(what.least)),
        _json(what.trip),
    ]
    keys = [names.clock, names.tasks, names.task(what.task), names.overrides(what.task)]
    reply = await connection.run(load_script("restore"), keys, args)
    if reply[0] not in ("restored", "conflict"):
        raise StoreError("restore", f"the store answered {reply[0]!r}")
    return bool(reply[0] == "restored")


async def remember_calls(
    connection: StoreConnection,
    names: TenantKeys,
    tombstones: Sequence[Tombstone],
    tombstone_ms: int,
) -> int:
    """Leave tombstones where there are none; return how many were left."""
    if not tombstones:
        return 0
    args: list[Argument] = [tombstone_ms]
    for stone in tombstones:
        args += [stone.state, stone.phase, stone.execution, stone.tokens, stone.nano_usd]
        args.append(" ".join(map(names.window_named, stone.windows.split())))
    keys = [names.call(stone.call_id) for stone in tombstones]
    return int(await connection.run(load_script("remember"), keys, args))


def _flat(fields: Mapping[str, object]) -> list[str]:
    return [text for name, value in fields.items() for text in (name, str(value))]


def _json(value: Sequence[str]) -> bytes:
    return msgspec.json.encode(list(value))
