"""`/admin/v1/enforcement`: who may switch, what holds then, and what is said of it."""

from dataclasses import replace
from typing import Any

from gateway.admin.roles import AdminAccess, Role, token_digest
from gateway.core.policy import Mode, PolicySet, StopLossPolicy
from tests.admin.plane import RULES, WHO, Answer, Plane, StartPlane
from tests.store.agent import Agent

PATH = "/admin/v1/enforcement"
ENFORCING = replace(RULES, policies=PolicySet((StopLossPolicy(mode=Mode.ENFORCE),)))


async def switch(admin: Plane, enabled: bool, **more: Any) -> Answer:
    return await admin.ask("POST", PATH, json={"enabled": enabled, **WHO, **more})


async def test_RBK2_switched_off_a_shut_gate_is_open(plane: StartPlane, agent: Agent) -> None:
    """What would be refused is said; switched on again, it is shut as before."""
    await agent.spend(28_081)
    admin = await plane(rules=ENFORCING)
    gate = "/admin/v1/tasks/T/gate"
    assert (await admin.ask("POST", gate, json={})).status == 409
    off = await switch(admin, False, expires_in_s=3_600)
    assert off.status == 200
    assert (off.json["enforcing"], off.json["stop_loss_enabled"]) == (False, True)
    said = off.json["switched_off"]
    assert (said["approver"], said["reason"]) == (WHO["approver"], WHO["reason"])
    assert said["until_ms"] - said["since_ms"] == 3_600_000
    assert (await admin.get(PATH)).json == off.json
    (told,) = [one for one in admin.events if one["event"] == "enforcement_switched_off"]
    assert told["level"] == "critical"
    passed = await admin.ask("POST", gate, json={})
    assert (passed.status, passed.json["mode"], passed.json["would_refuse"]) == (
        200,
        "observe",
        True,
    )
    tried = await admin.ask("POST", "/admin/v1/policies/dry-run", json={"task": "T"})
    assert (tried.json["decision"], tried.json["mode"]) == ("flag", "observe")
    on = await switch(admin, True)
    assert (on.json["enforcing"], on.json["switched_off"]) == (True, None)
    assert (await admin.ask("POST", gate, json={})).status == 409


async def test_only_an_admin_may(plane: StartPlane) -> None:
    """An operator sees how it stands."""
    token = "operators-token"
    access = AdminAccess("ops", Role.OPERATOR, token_digest(token.encode()))
    admin = await plane(rules=ENFORCING, accesses=(access,))
    answer = await admin.ask("POST", PATH, token=token, json={"enabled": False, **WHO})
    assert (answer.status, answer.error["code"]) == (403, "forbidden")
    assert (await admin.get(PATH, token=token)).json["enforcing"] is True


async def test_who_and_why_are_required(plane: StartPlane) -> None:
    """And the field is named."""
    admin = await plane()
    for body, field in (
        ({"enabled": False}, "approver"),
        ({**WHO}, "enabled"),
        ({"enabled": "no", **WHO}, "enabled"),
        ({"enabled": False, **WHO, "expires_in_s": 0}, "expires_in_s"),
    ):
        answer = await admin.ask("POST", PATH, json=body)
        assert (answer.status, answer.error["field"]) == (422, field)


async def test_what_else_keeps_policies_from_refusing_is_said(plane: StartPlane) -> None:
    """The environment's switch, the budget file's, and a mode that only observes."""
    assert (await (await plane()).get(PATH)).json["enforcing"] is False
    stop_loss = replace(RULES.budgets.stop_loss, enabled=False)
    rules = replace(RULES, budgets=replace(RULES.budgets, stop_loss=stop_loss))
    body = (await (await plane(rules=rules)).get(PATH)).json
    assert (body["enforcing"], body["stop_loss_enabled"], body["switched_off"]) == (
        False,
        False,
        None,
    )
