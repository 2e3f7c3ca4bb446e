"""Which calls a policy is for."""

from dataclasses import dataclass, replace

import pytest

from gateway.core.identity import Tags
from gateway.core.keys import GatewayKey
from gateway.core.match import ActedOn, CallMatch
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Match, Mode, PolicySet, StopLossPolicy, in_stop_loss_mode

TIERS = Complexity.MEDIUM, ImportanceTier.MEDIUM


@dataclass(frozen=True)
class Asked:
    """A call as policies look at it."""

    key: GatewayKey | None
    tags: Tags
    models: tuple[str | None, ...]
    tenant: str = "default"


CALL = Asked(
    GatewayKey("ab12cd34", "", "ci-nightly", team="search"),
    Tags(task="SHOP-7", phase=WorkPhase.VERIFY),
    ("prod-large", "gpt-5-mini"),
)
BARE = Asked(None, Tags(), (None,))


@pytest.mark.parametrize(
    ("match", "fits", "fits_bare"),
    [
        (CallMatch(), True, True),
        (CallMatch(phase=frozenset({WorkPhase.VERIFY, WorkPhase.PR})), True, False),
        (CallMatch(phase=frozenset({WorkPhase.PLAN})), False, False),
        (CallMatch(key=frozenset({"ab12cd34"})), True, False),
        (CallMatch(key=frozenset({"x", "ci-*"})), True, False),
        (CallMatch(key=frozenset({"CI-*"})), False, False),
        (CallMatch(team=frozenset({"sea*"})), True, False),
        (CallMatch(team=frozenset({"sales"})), False, False),
        (CallMatch(tenant=frozenset({"default"})), True, True),
        (CallMatch(tenant=frozenset({"other"})), False, False),
        (CallMatch(task=frozenset({"SHOP-*"})), True, False),
        (CallMatch(task=frozenset({"SHIP-*"})), False, False),
        (CallMatch(model=frozenset({"gpt-5*"})), True, False),
        (CallMatch(model=frozenset({"prod-large"})), True, False),
        (CallMatch(model=frozenset({"claude-*"})), False, False),
        (CallMatch(team=frozenset({"search"}), model=frozenset({"claude-*"})), False, False),
    ],
)
def test_every_name_that_is_asked_for_must_fit(
    match: CallMatch, fits: bool, fits_bare: bool
) -> None:
    assert match.matches(CALL) is fits
    assert match.matches(BARE) is fits_bare


def test_the_tenant_is_the_gateway_s_with_a_key_or_without() -> None:
    of_acme = CallMatch(tenant=frozenset({"acme"}))
    assert of_acme.matches(replace(BARE, tenant="acme"))
    assert not of_acme.matches(BARE)


def test_the_first_policy_that_means_the_call_holds() -> None:
    of_search = Match(calls=(CallMatch(team=frozenset({"search"})),))
    strict, others = StopLossPolicy("strict", Mode.ENFORCE, of_search), StopLossPolicy("others")
    policies = PolicySet((strict, others))
    assert policies.stop_loss_for(*TIERS, CALL) is strict
    assert policies.stop_loss_for(*TIERS, BARE) is others
    assert policies.stop_loss_for(*TIERS) is others


def test_a_policy_in_the_mode_of_the_stop_loss_is_for_what_both_mean() -> None:
    search, gpt = CallMatch(team=frozenset({"search"})), CallMatch(model=frozenset({"gpt-*"}))
    stop_loss = StopLossPolicy("s", Mode.ENFORCE, Match(calls=(search,)))
    policy = StopLossPolicy("p", match=Match(calls=(gpt, search)))
    both, off = in_stop_loss_mode(policy, [stop_loss]), None
    narrowed = next(both)
    assert (narrowed.mode, narrowed.match.calls) == (Mode.ENFORCE, (gpt, search))
    assert next(both, off) is None
    [first, last] = in_stop_loss_mode(StopLossPolicy("q", match=Match(calls=(gpt,))), [stop_loss])
    assert first.match.matches(*TIERS, CALL)
    assert not first.match.matches(*TIERS, BARE)
    assert last.mode is Mode.OFF


def test_a_task_that_is_acted_on_is_met_by_its_name_alone() -> None:
    """It makes no call: whoever asks for a key or a model does not mean it."""
    task = ActedOn("IMP-1")
    assert CallMatch(task=frozenset({"IMP-*"})).matches(task)
    assert not CallMatch(task=frozenset({"OPS-*"})).matches(task)
    assert not CallMatch(model=frozenset({"*"})).matches(task)
    assert not CallMatch(key=frozenset({"*"})).matches(task)
