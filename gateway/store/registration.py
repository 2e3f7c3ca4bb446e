"""Registering a task: its snapshot is made before its first call, or it is blocked (EC17)."""

from dataclasses import dataclass

import msgspec

from gateway.core.acts import Act
from gateway.core.budget import TaskLimits
from gateway.core.vocabulary import Vocabulary
from gateway.ports import TaskFacts
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys, facts_from_text, facts_text, snapshot_fields
from gateway.store.scripts import load_script


class Registered(Vocabulary):
    """What became of a registration (`lua/register.lua`)."""

    CREATED = "created"
    SAME = "same"
    CONFLICT = "conflict"
    UNBLOCKED = "unblocked"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Registration:
    """A task as it was registered. `digest` is of its content, '' if that was malformed."""

    task: str
    facts: TaskFacts
    limits: TaskLimits
    digest: str
    act: Act


async def register_task(
    connection: StoreConnection, names: TenantKeys, what: Registration, *, now_ms: str = ""
) -> Registered:
    """Create or block a task, once. Raises StoreError."""
    facts = facts_text(what.facts)
    reply = await connection.run(
        load_script("register"),
        [
            *(names.clock, names.task(what.task), names.overrides(what.task)),
            *(names.tasks, names.ledger),
        ],
        [
            now_ms,
            facts,
            msgspec.json.encode(snapshot_fields(facts, what.limits)),
            what.digest,
            msgspec.json.encode(what.act),
        ],
    )
    return Registered(reply[0])


async def begin_task(
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    facts: TaskFacts,
    limits: TaskLimits,
    *,
    now_ms: str = "",
) -> TaskFacts:
    """Create a task before its first call, if it is new; return what it is. Raises StoreError."""
    text = facts_text(facts)
    snapshot = msgspec.json.encode(snapshot_fields(text, limits))
    keys = [names.clock, names.task(task), names.overrides(task), names.tasks, names.ledger]
    reply = await connection.run(load_script("begin"), keys, [now_ms, text, snapshot])
    return facts_from_text(reply[0])


async def facts_of(connection: StoreConnection, names: TenantKeys, task: str) -> TaskFacts | None:
    """Return what never changes about a task, None if there is no such task."""
    text = await connection.execute("HGET", names.task(task), "facts")
    return None if text is None else facts_from_text(text)
