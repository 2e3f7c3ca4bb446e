"""Starting and ending executions of a phase by word of the orchestrator."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from gateway.core.acts import Act
from gateway.core.phases import WorkPhase
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import UnknownTask
from gateway.store.scripts import load_script


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """The phase's current execution, 0 if it has none, and whether this act changed anything.

    `parallel_to` is another phase that has calls in flight while this one starts (EC10).
    """

    execution: int
    changed: bool
    parallel_to: WorkPhase | None = None


async def mark_phase(
    connection: StoreConnection,
    names: TenantKeys,
    task: str,
    phase: WorkPhase,
    what: Literal["start", "end"],
    act: Act,
    *,
    now_ms: str = "",
) -> PhaseChange:
    """Start or end an execution, once. Raises UnknownTask. `now_ms` is for tests."""
    reply = await connection.run(
        load_script("phase"),
        [names.clock, names.task(task), names.overrides(task), names.tasks, names.ledger],
        [now_ms, what, phase.value, msgspec.json.encode(act)],
    )
    if reply[0] == "absent":
        raise UnknownTask(task)
    changed = reply[0] == "changed"
    other = WorkPhase(reply[2]) if changed and reply[2] else None
    return PhaseChange(int(reply[1]), changed, other)
