"""Which policy a task has."""

from dataclasses import replace
from itertools import product

from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import (
    Effect,
    Match,
    Mode,
    PolicySet,
    ReserveKind,
    StopLossPolicy,
    StoreFailure,
)

ALL_TIERS = list(product(Complexity, ImportanceTier))


def test_the_built_in_policy_only_observes() -> None:
    """G-12, G-6, AC3: shipped mode is observe; lines as the plan has them."""
    policy = StopLossPolicy()
    assert policy.mode is Mode.OBSERVE
    assert policy.effect is Effect.REFUSE
    assert policy.enforce_from is WorkPhase.VERIFY
    assert policy.reserve is ReserveKind.EXPECTED
    assert (policy.latency_action, policy.phase_action) == (Effect.FLAG, Effect.FLAG)
    assert policy.store_failure is StoreFailure.OPEN


def test_an_empty_match_is_for_every_task() -> None:
    assert all(Match().matches(*tiers) for tiers in ALL_TIERS)


def test_a_match_needs_both_tiers() -> None:
    match = Match(frozenset({Complexity.LARGE}), frozenset({ImportanceTier.LOW}))
    assert [tiers for tiers in ALL_TIERS if match.matches(*tiers)] == [
        (Complexity.LARGE, ImportanceTier.LOW)
    ]


def test_a_match_on_one_tier_leaves_the_other_open() -> None:
    by_complexity = Match(complexity=frozenset({Complexity.TINY, Complexity.SMALL}))
    by_importance = Match(importance=frozenset({ImportanceTier.CRITICAL}))
    assert sum(by_complexity.matches(*tiers) for tiers in ALL_TIERS) == 8
    assert sum(by_importance.matches(*tiers) for tiers in ALL_TIERS) == 4


def test_the_first_policy_that_matches_holds() -> None:
    """ROL-1: week 2 enforces for low and medium and observes the others."""
    lesser = StopLossPolicy(
        name="lesser",
        mode=Mode.ENFORCE,
        match=Match(importance=frozenset({ImportanceTier.LOW, ImportanceTier.MEDIUM})),
    )
    others = StopLossPolicy(name="others")
    policies = PolicySet((lesser, others))
    assert policies.stop_loss_for(Complexity.LARGE, ImportanceTier.LOW) is lesser
    assert policies.stop_loss_for(Complexity.LARGE, ImportanceTier.HIGH) is others


def test_a_task_that_no_policy_matches_has_one_that_is_off() -> None:
    only = StopLossPolicy(match=Match(complexity=frozenset({Complexity.TINY})))
    policy = PolicySet((only,)).stop_loss_for(Complexity.LARGE, ImportanceTier.LOW)
    assert policy.mode is Mode.OFF
    assert policy.name == "none"


def test_who_refuses_without_a_store() -> None:
    """Only where nobody's calls pass: one policy that lets them pass is enough to serve."""
    closed = StopLossPolicy(mode=Mode.ENFORCE, store_failure=StoreFailure.CLOSED)
    assert PolicySet((closed, closed)).refuses_without_store
    for other in (
        replace(closed, store_failure=StoreFailure.ALLOWANCE),
        replace(closed, store_failure=StoreFailure.OPEN),
        replace(closed, mode=Mode.OBSERVE),
    ):
        assert not PolicySet((closed, other)).refuses_without_store
    assert not PolicySet(()).refuses_without_store
