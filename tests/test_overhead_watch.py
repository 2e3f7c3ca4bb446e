"""The overhead breaker between the workers' counts and the store's switch."""

from typing import Any

import pytest

from gateway.core.acts import Act
from gateway.core.breaker import BreakerRule
from gateway.core.enforcement import switched_off
from gateway.core.errors import StoreError
from gateway.overhead_watch import OverheadWatch
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from gateway.store.enforcement import read_switch, switch_enforcement
from gateway.store.keys import TenantKeys
from gateway.telemetry import names
from gateway.telemetry.counters import Counters

RULE = BreakerRule(baseline_ns=1_000_000)
CALLS = RULE.least_calls


class Notes:
    """ports.Recorder, for events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, level: str = "info", **_fields: Any) -> None:
        self.events.append(f"{name} {level}")

    def call(self, record: Any) -> None:
        raise AssertionError


class Bench:
    """A watch in virtual time."""

    def __init__(self, connection: StoreConnection, tenant: str) -> None:
        self.counters, self.notes, self.now_s = Counters(), Notes(), 0.0
        self.names = TenantKeys(tenant)
        self.watch = OverheadWatch(
            RULE, self.counters, connection, self.names, self.notes, lambda: self.now_s
        )

    async def run(self, windows: int, mean_ns: int, *, off: bool = False) -> None:
        """Let windows pass in which calls took so long."""
        for _ in range(windows):
            self.counters.add(names.OVERHEAD_CALLS, (), CALLS)
            self.counters.add(names.OVERHEAD_NS, (), CALLS * mean_ns)
            await self.watch.look(switched_off=off)
            self.now_s += RULE.window_ms / 1000


async def test_RBK3_it_throws_the_switch_for_all_gateways(
    connection: StoreConnection, tenant: str
) -> None:
    """Once, with figures for a reason; when a person has switched on again it begins anew."""
    bench = Bench(connection, tenant)
    await bench.run(61, 2_000_001)
    assert await read_switch(connection, bench.names) == ""
    await bench.run(1, 2_000_001)
    off = switched_off(await read_switch(connection, bench.names))
    assert off is not None and (off.approver, off.until_ms) == ("breaker", None)
    assert off.reason == (
        "The gateway's own time per call was above 200% of its baseline of 1.00 ms for 10 minutes."
    )
    assert bench.notes.events == ["overhead_breaker_tripped critical"]
    await bench.run(200, 2_000_001, off=True)
    on = Act("enforcement.on", "ada", "mended")
    await switch_enforcement(connection, bench.names, on, enabled=True)
    await bench.run(61, 2_000_001)
    assert bench.notes.events == ["overhead_breaker_tripped critical"]
    await bench.run(1, 2_000_001)
    assert bench.notes.events == ["overhead_breaker_tripped critical"] * 2


async def test_what_a_person_switched_off_meanwhile_keeps_its_reason(
    connection: StoreConnection, tenant: str
) -> None:
    """The watch may not have seen it yet."""
    bench = Bench(connection, tenant)
    await bench.run(61, 2_000_001)
    act = Act("enforcement.off", "ada", "a drill")
    await switch_enforcement(connection, bench.names, act, enabled=False)
    await bench.run(1, 2_000_001)
    off = switched_off(await read_switch(connection, bench.names))
    assert off is not None and off.approver == "ada"
    assert bench.notes.events == []


async def test_a_quick_gateway_is_let_alone(connection: StoreConnection, tenant: str) -> None:
    bench = Bench(connection, tenant)
    await bench.run(200, 2_000_000)
    assert (await read_switch(connection, bench.names), bench.notes.events) == ("", [])


async def test_a_store_that_does_not_take_it_is_told_again(tenant: str) -> None:
    """With each look, until it does."""
    bench = Bench(StoreConnection(StoreAddress(path="/nowhere")), tenant)
    await bench.run(61, 2_000_001)
    for _ in range(2):
        with pytest.raises(StoreError):
            await bench.run(1, 2_000_001)
    assert bench.notes.events == ["overhead_breaker_failed critical"] * 2
