"""Mending what a call was charged, by hand: one atomic act, told to the ledger's audit.

What was charged, and where, the store has forgotten by then; the ledger knows. That it knows all is
checked by the number of its latest act on the call.
"""

from dataclasses import dataclass

import msgspec

from gateway.core.acts import Act
from gateway.core.errors import StoreError
from gateway.store.connection import Argument, StoreConnection
from gateway.store.keys import TenantKeys, facts_from_text
from gateway.store.limits import UnknownTask
from gateway.store.scripts import load_script

_TOMBSTONE_MS = 25 * 3_600_000  # as long as an answer in the background may still be fetched


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call was charged, as the ledger has it since its act `number`.

    `nano_usd` None: no price was known. `is_estimated`, `would_refuse`: the task counts it so.
    """

    call_id: str
    task: str
    state: str
    number: int
    phase: str
    execution: int
    tokens: int
    nano_usd: int | None
    is_estimated: bool
    would_refuse: bool


class CallOpen(StoreError):
    """The call is still going on: it will be settled by itself."""

    def __init__(self, call_id: str) -> None:
        super().__init__("call_open", f"call {call_id} is still open")


class LedgerBehind(StoreError):
    """The ledger has not written yet what the store knows of the call."""

    def __init__(self, call_id: str) -> None:
        super().__init__("ledger_behind", f"the ledger has not written all of call {call_id} yet")


async def knows_ended(connection: StoreConnection, names: TenantKeys, call_id: str) -> bool:
    """Return whether the store knows that the call has ended. Raises CallOpen."""
    state = await connection.execute("HGET", names.call(call_id), "state")
    if state == "held":
        raise CallOpen(call_id)
    return state is not None


async def correct_charge(
    connection: StoreConnection,
    names: TenantKeys,
    charge: Charge,
    tokens: int,
    nano_usd: int | None,
    act: Act,
    *,
    now_ms: str = "",
) -> bool:
    """Charge a call other amounts than it was; return whether that changed anything.

    Raises CallOpen, LedgerBehind, UnknownTask. `now_ms` replaces the store's clock in tests.
    """
    facts = await connection.execute("HGET", names.task(charge.task), "facts")
    if facts is None:
        raise UnknownTask(charge.task)
    keys: list[Argument] = [
        names.clock,
        names.call(charge.call_id),
        names.leases,
        names.tasks,
        names.ledger,
        *map(names.task, (charge.task, *facts_from_text(facts).parents)),
    ]
    args: list[Argument] = [
        charge.call_id,
        now_ms,
        _TOMBSTONE_MS,
        charge.number,
        charge.phase,
        charge.execution,
        charge.tokens,
        _amount(charge.nano_usd),
        tokens,
        _amount(nano_usd),
        int(charge.is_estimated),
        int(charge.would_refuse),
        msgspec.json.encode(act),
    ]
    reply = await connection.run(load_script("correct"), keys, args)
    if reply[0] == "open":
        raise CallOpen(charge.call_id)
    if reply[0] == "behind":
        raise LedgerBehind(charge.call_id)
    if reply[0] == "absent":
        raise UnknownTask(charge.task)
    return bool(reply[0] == "corrected")


def _amount(nano_usd: int | None) -> Argument:
    return "-" if nano_usd is None else nano_usd
