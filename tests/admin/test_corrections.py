"""`POST /admin/v1/calls/{call}/correct`; what it does to balances is in `ledger/test_charges.py`."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.core.errors import LedgerError
from gateway.store.correction import Charge
from tests.admin.plane import WHO, Answer, Plane, StartPlane
from tests.store.agent import Agent, settlement


def charge(call_id: str, **changes: Any) -> Charge:
    """What the ledger has of a call of 17,000 tokens."""
    known = Charge(call_id, "T", "settled", 1, "PLAN", 1, 17_000, None, False, False)
    return replace(known, **changes)


class Ledger:
    """The charges that a ledger knows."""

    def __init__(self, *charges: Charge, broken: bool = False) -> None:
        self.charges = {each.call_id: each for each in charges}
        self.broken = broken

    def __call__(self, _tenant: str, call_id: str) -> Charge | None:
        if self.broken:
            raise LedgerError("the database is locked")
        return self.charges.get(call_id)


async def correct(admin: Plane, call: str, body: Any) -> Answer:
    return await admin.ask("POST", f"/admin/v1/calls/{call}/correct", json=body)


async def test_a_charge_is_mended(plane: StartPlane, agent: Agent) -> None:
    """Both amounts, or one; the answer has the task as it is now, the log who did it."""
    plan, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan, 17_000))
    ledger = Ledger(charge(plan.call_id))
    admin = await plane(read_charge=ledger)
    answer = await correct(admin, plan.call_id, {**WHO, "tokens": 100, "cost_usd": "0.0000005"})
    assert answer.status == 200
    assert (answer.json["call"], answer.json["changed"]) == (plan.call_id, True)
    assert answer.json["before"] == {"tokens": 17_000, "cost_usd": None, "nano_usd": None}
    assert answer.json["after"] == {"tokens": 100, "cost_usd": "0.0000005", "nano_usd": 500}
    assert answer.json["task"]["totals"]["tokens"]["used"] == 100
    (event,) = admin.events
    assert (event["event"], event["call_id"], event["approver"]) == (
        "call_corrected",
        plan.call_id,
        "ada",
    )
    behind = await correct(admin, plan.call_id, {**WHO, "tokens": 0})
    assert (behind.status, behind.error["code"]) == (503, "ledger_behind")
    ledger.charges[plan.call_id] = charge(plan.call_id, number=1 << 60, tokens=100, nano_usd=500)
    again = await correct(admin, plan.call_id, {**WHO, "tokens": 100})
    assert (again.status, again.json["changed"], again.json["after"]["nano_usd"]) == (
        200,
        False,
        500,
    )
    nothing = await correct(admin, plan.call_id, {**WHO, "tokens": 0, "cost_usd": 0})
    assert nothing.json["task"]["totals"]["tokens"]["used"] == 0
    assert len(admin.events) == 2


async def test_calls_that_cannot_be_mended(plane: StartPlane, agent: Agent) -> None:
    """Open, not written yet, never charged, unknown; or the ledger cannot be read."""
    held, _ = await agent.reserve("PLAN")
    ended, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(ended))
    ledger = Ledger(
        charge("refused", state="refused"),
        charge("elsewhere", task="nobody"),
        charge(held.call_id + "x"),
    )
    admin = await plane(read_charge=ledger)
    for call, status, code in (
        (held.call_id, 409, "call_open"),
        (ended.call_id, 503, "ledger_behind"),
        ("refused", 409, "wrong_state"),
        ("nobody", 404, "unknown_call"),
        ("elsewhere", 404, "unknown_task"),
        ("-x", 400, "invalid_call_id"),
    ):
        answer = await correct(admin, call, {**WHO, "tokens": 1})
        assert (answer.status, answer.error["code"]) == (status, code)
    ledger.charges[held.call_id] = charge(held.call_id)
    assert (await correct(admin, held.call_id, {**WHO, "tokens": 1})).error["code"] == "call_open"
    broken = await plane(read_charge=Ledger(broken=True))
    answer = await correct(broken, "any", {**WHO, "tokens": 1})
    assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
    without = await correct(await plane(), "any", {**WHO, "tokens": 1})
    assert without.error["code"] == "ledger_unavailable"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (WHO, "tokens"),
        ({"tokens": 1}, "approver"),
        ({**WHO, "tokens": -1}, "tokens"),
        ({**WHO, "tokens": 5.0}, "tokens"),
        ({**WHO, "tokens": 1, "cost_usd": "x"}, "cost_usd"),
        ({**WHO, "cost_usd": 10_001}, "cost_usd"),
        ({**WHO, "cost_usd": "0.0000000001"}, "cost_usd"),
        ({**WHO, "output": 1}, "output"),
    ],
)
async def test_a_body_that_is_wrong(plane: StartPlane, body: Any, field: str) -> None:
    answer = await correct(await plane(), "any", body)
    assert (answer.status, answer.error["code"], answer.error["field"]) == (
        422,
        "invalid_request",
        field,
    )
    assert "Remedy: " in answer.error["message"]


async def test_a_call_without_a_task(plane: StartPlane, agent: Agent) -> None:
    """It is charged to its key's bucket, which is no task to show."""
    untagged = Agent(agent.store, agent.tenant, "-anonymous", limits=None)
    plan, _ = await untagged.reserve("")
    await untagged.store.settle(settlement(plan, 17_000))
    ledger = Ledger(charge(plan.call_id, task="-anonymous", phase="", execution=0))
    answer = await correct(await plane(read_charge=ledger), plan.call_id, {**WHO, "tokens": 1})
    assert (answer.json["changed"], answer.json["task"]) == (True, None)
