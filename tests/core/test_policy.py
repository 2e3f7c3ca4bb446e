"""Which policy a task has."""

from dataclasses import replace
from itertools import product

import pytest

from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import (
    Effect,
    FreeRoute,
    Match,
    Mode,
    PolicySet,
    ReserveKind,
    StopLossPolicy,
    StoreFailure,
    UnmeteredRoutePolicy,
    UnpricedEffect,
    UnpricedModelPolicy,
    in_stop_loss_mode,
)
from gateway.core.velocity import RatePolicy

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


# unpriced models and unmetered routes


def test_the_built_in_policies_refuse_routes_and_flag_models() -> None:
    """GW-1, GW-5."""
    assert UnpricedModelPolicy().effect is UnpricedEffect.FLAG
    assert UnmeteredRoutePolicy().effect is Effect.REFUSE


def test_each_kind_has_its_first_match_or_one_that_is_off() -> None:
    tiny = Match(complexity=frozenset({Complexity.TINY}))
    model = UnpricedModelPolicy(name="m", match=tiny)
    route = UnmeteredRoutePolicy(name="r", match=tiny)
    policies = PolicySet(unpriced_model=(model,), unmetered_route=(route,))
    of_tiny = Complexity.TINY, ImportanceTier.LOW
    assert policies.unpriced_model_for(*of_tiny) is model
    assert policies.unmetered_route_for(*of_tiny) is route
    of_large = Complexity.LARGE, ImportanceTier.LOW
    assert policies.unpriced_model_for(*of_large).mode is Mode.OFF
    assert policies.unmetered_route_for(*of_large).mode is Mode.OFF


@pytest.mark.parametrize(
    ("method", "path", "fits"),
    [
        ("GET", "/v1/files", True),
        ("POST", "/v1/files", False),
        ("GET", "/v1/files/f-1", False),
        ("DELETE", "/v1/files/f-1/content", True),
        ("GET", "/v1/files/f-1/x/content", False),
        ("POST", "/v1/vector_stores/v/search", True),
        ("POST", "/v1/vector_storesX", False),
        ("GET", "/v1.files", False),
        ("GET", "/v1xfiles", False),
    ],
)
def test_a_free_route_is_a_method_and_a_pattern(method: str, path: str, fits: bool) -> None:
    policy = UnmeteredRoutePolicy(
        free=(
            FreeRoute("GET", "/v1/files"),
            FreeRoute("*", "/v1/files/*/content"),
            FreeRoute("POST", "/v1/vector_stores/**"),
            FreeRoute("GET", "/v1.x"),
        )
    )
    assert policy.is_free(method, path) is fits


def test_a_policy_without_a_mode_follows_the_tasks_stop_loss() -> None:
    """Also where the two match different tasks, and where no stop-loss matches."""
    stop_loss = (
        StopLossPolicy(mode=Mode.ENFORCE, match=Match(importance=frozenset({ImportanceTier.LOW}))),
        StopLossPolicy(mode=Mode.OBSERVE, match=Match(complexity=frozenset({Complexity.TINY}))),
    )
    route = UnmeteredRoutePolicy(
        match=Match(frozenset({Complexity.TINY, Complexity.LARGE}), frozenset(list(ImportanceTier)))
    )
    policies = PolicySet(stop_loss, unmetered_route=tuple(in_stop_loss_mode(route, stop_loss)))
    for tiers in ALL_TIERS:
        mode = policies.stop_loss_for(*tiers).mode
        expected = mode if route.match.matches(*tiers) else Mode.OFF
        assert policies.unmetered_route_for(*tiers).mode is expected


def test_tiers_that_no_stop_loss_shares_are_left_out() -> None:
    tiny, large = (Match(complexity=frozenset({c})) for c in (Complexity.TINY, Complexity.LARGE))
    [off] = in_stop_loss_mode(UnmeteredRoutePolicy(match=tiny), [StopLossPolicy(match=large)])
    assert off.mode is Mode.OFF
    low = Match(importance=frozenset({ImportanceTier.LOW}))
    high = Match(importance=frozenset({ImportanceTier.HIGH}))
    assert low.within(high) is None
    assert tiny.within(low) == Match(tiny.complexity, low.importance)


def test_one_stop_loss_for_all_of_its_tasks_is_enough() -> None:
    """What comes behind it cannot be reached, and nothing is left to switch off."""
    route, all_tasks = UnmeteredRoutePolicy(), StopLossPolicy(mode=Mode.ENFORCE)
    [only] = in_stop_loss_mode(route, [all_tasks, StopLossPolicy(mode=Mode.OFF)])
    assert only == replace(route, mode=Mode.ENFORCE)


def test_velocity_has_its_first_match_or_none() -> None:
    tiny = RatePolicy("t", match=Match(complexity=frozenset({Complexity.TINY})))
    policies = PolicySet(rate=(tiny,))
    assert policies.rate_for(Complexity.TINY, ImportanceTier.LOW) is tiny
    assert policies.rate_for(Complexity.LARGE, ImportanceTier.LOW) is None
