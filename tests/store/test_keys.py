"""The key schema: one slot per tenant, and texts that come back as what they were."""

from dataclasses import replace

import pytest
from redis.crc import key_slot

from gateway.core.budget import Dimension, TokenWeights
from gateway.core.overrides import limits_in_force
from gateway.core.phases import Complexity, ImportanceTier
from gateway.ports import TaskFacts
from gateway.store.keys import (
    UNTAGGED_FACTS,
    TenantKeys,
    facts_from_text,
    facts_text,
    limit_fields,
    snapshot_fields,
)
from tests.store.agent import FACTS, LIMITS, LIMITS_WITH_MONEY


def test_all_keys_of_a_tenant_are_in_one_slot() -> None:
    """So that one script may touch them on a cluster too."""
    keys = TenantKeys("acme")
    names = (
        keys.clock,
        keys.tasks,
        keys.leases,
        keys.task("T-1"),
        keys.task("-key1"),
        keys.overrides("T-1"),
        keys.call("c1"),
    )
    assert names == (
        "tg:{acme}:clock",
        "tg:{acme}:tasks",
        "tg:{acme}:leases",
        "tg:{acme}:task:T-1",
        "tg:{acme}:untagged:key1",
        "tg:{acme}:task:T-1:overrides",
        "tg:{acme}:call:c1",
    )
    assert len({key_slot(name.encode()) for name in names}) == 1
    assert key_slot(keys.clock.encode()) != key_slot(TenantKeys("other").clock.encode())


@pytest.mark.parametrize(
    "facts",
    [
        FACTS,
        TaskFacts(Complexity.LARGE, ImportanceTier.CRITICAL, ("a.b", "c-d_e")),
        replace(FACTS, weights=TokenWeights(1000, 100, 1250, 5000)),
    ],
)
def test_facts_come_back_from_their_text(facts: TaskFacts) -> None:
    """And different facts have different texts."""
    assert facts_from_text(facts_text(facts)) == facts
    assert facts_text(facts) != facts_text(replace(facts, complexity=Complexity.TINY))


def test_untagged_facts_are_those_of_a_task_that_says_nothing() -> None:
    """Medium, medium, no ancestors."""
    assert facts_from_text(UNTAGGED_FACTS) == FACTS


def test_a_snapshot_has_every_limit_and_line() -> None:
    """As text, in pairs; a dimension without a limit has no fields."""
    fields = snapshot_fields("facts", LIMITS)
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    assert (pairs["facts"], pairs["version"]) == ("facts", "0")
    assert [pairs[f"tokens.{letter}"] for letter in "LGCR"] == ["23400", "0", "28080", "46800"]
    assert (pairs["THINK.tokens.L"], pairs["THINK.tokens.C"]) == ("6000", "9000")
    assert not any("nano_usd" in name or "calls" in name for name in pairs)
    assert not {"THINK.tokens.R", "THINK.tokens.G"} & set(pairs)


def test_grants_are_added_to_the_lines() -> None:
    """Of a task; phases have none."""
    in_force = limits_in_force(LIMITS_WITH_MONEY, (), 0)
    fields = limit_fields(replace(in_force, granted={Dimension.NANO_USD: 5}))
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    limit = in_force.task[Dimension.NANO_USD]
    assert int(pairs["nano_usd.L"]) == limit.limit
    assert int(pairs["nano_usd.G"]) == 5
    assert int(pairs["nano_usd.C"]) == limit.cumulative + 5
    assert int(pairs["nano_usd.R"]) == limit.runaway + 5
