"""Heartbeats: what they tell the store, and whose streams they end."""

from typing import Any

import pytest
from msgspec import structs

from gateway.core.enforcement import Switch
from gateway.core.meter import Observation
from gateway.core.prices import PriceTable
from gateway.core.shaping import Shape
from gateway.open_calls import renew_leases
from gateway.planner import Plan
from tests.e2e.in_process import rules
from tests.server.client import Told
from tests.test_planner import PRICE, call_of, plan_of
from tests.test_relay import SSE, TEXT_EVENT, Line


class Store:
    """ports.BudgetStore as far as heartbeats go: it says which calls are over."""

    def __init__(self, **over: str) -> None:
        self.over = over
        self.told: list[Any] = []
        self.switch = Switch()

    def switch_of(self, tenant: str) -> Switch:
        return self.switch

    async def heartbeat(self, tenant: str, open_calls: list[Any]) -> dict[str, str]:
        self.told.append((tenant, open_calls))
        return self.over


def plan(*, stops: bool = True) -> Plan:
    made = plan_of(rules(prices=PriceTable({"m": PRICE})), call_of((b"X-Task-Id", b"T")))
    return structs.replace(made, shape=Shape(stops_stream=stops))


def streaming() -> Line:
    line = Line(stream=True)
    line.follow()
    line.relay.on_head(200, SSE, None)
    line.relay.on_body(TEXT_EVENT)
    return line


async def test_with_nothing_open_nobody_is_asked() -> None:
    store = Store()
    await renew_leases({}, store, Told(), "t")  # type: ignore[arg-type]
    assert store.told == []


async def test_what_was_seen_is_told_in_tokens_and_money() -> None:
    """The input as it is held, and the output as far as it has come."""
    store, made, line = Store(), plan(), streaming()
    await renew_leases({"c1": (made, line.relay)}, store, Told(), "t")  # type: ignore[arg-type]
    need = made.reserve.need
    seen = (made.reserve, need.input_high + 1, need.input_nano_usd + need.unit_nano_usd)
    assert store.told == [("t", [seen])]
    assert need.unit_nano_usd > 0
    assert not line.relay.done.done()


@pytest.mark.parametrize("stops", [True, False])
async def test_GW16_a_stream_is_stopped_only_where_its_policy_says_so(*, stops: bool) -> None:
    """One event a stream; calls that have ended meanwhile, and other carriers, are left alone."""
    store, told, line = Store(c1="task_killed", gone="task_killed", socket="x"), Told(), streaming()
    calls = {"c1": (plan(stops=stops), line.relay), "socket": (plan(), _Carried())}
    for _ in range(2):
        await renew_leases(calls, store, told, "t")  # type: ignore[arg-type]
    assert line.relay.done.done() is stops
    assert (b"Task T was killed" in line.client.body) is stops
    assert [event["event"] for event in told.events] == ["stream_stopped"] * stops


@pytest.mark.parametrize(("code", "stops"), [("runaway_task", False), ("task_killed", True)])
async def test_switched_off_only_people_stop_streams(code: str, *, stops: bool) -> None:
    """A kill holds whatever the switch of enforcement says."""
    store, line = Store(c1=code), streaming()
    store.switch.text = "off"
    await renew_leases({"c1": (plan(), line.relay)}, store, Told(), "t")  # type: ignore[arg-type]
    assert line.relay.done.done() is stops


class _Carried:
    """What carries a call over a WebSocket."""

    seen = Observation()
