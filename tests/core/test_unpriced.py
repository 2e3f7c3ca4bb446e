"""A model without a known price: marked, refused or priced as stated, never free."""

import pytest

from gateway.core.admission import Verdict
from gateway.core.decision import Outcome, Receipt, decide
from gateway.core.errors import BadCall
from gateway.core.policy import Mode, StopLossPolicy, UnpricedEffect, UnpricedModelPolicy
from gateway.core.prices import ModelPrice
from gateway.core.unpriced import Unpriced, without_price

PRICE = ModelPrice(1, 2, 3, 4)


def policy(effect: UnpricedEffect) -> UnpricedModelPolicy:
    return UnpricedModelPolicy(effect=effect, assume=PRICE)


@pytest.mark.parametrize(
    ("effect", "mode", "marked"),
    [
        (UnpricedEffect.FLAG, Mode.OBSERVE, (Unpriced.FLAGGED, None)),
        (UnpricedEffect.FLAG, Mode.ENFORCE, (Unpriced.FLAGGED, None)),
        (UnpricedEffect.DENY, Mode.OBSERVE, (Unpriced.WOULD_REFUSE, None)),
        (UnpricedEffect.ASSUME, Mode.OBSERVE, (Unpriced.PASSES, PRICE)),
        (UnpricedEffect.ASSUME, Mode.ENFORCE, (Unpriced.PASSES, PRICE)),
        (UnpricedEffect.DENY, Mode.OFF, (Unpriced.PASSES, None)),
        (UnpricedEffect.ASSUME, Mode.OFF, (Unpriced.PASSES, None)),
    ],
)
def test_what_the_policy_makes_of_it(
    effect: UnpricedEffect, mode: Mode, marked: tuple[Unpriced, ModelPrice | None]
) -> None:
    assert without_price(policy(effect), mode, "gpt-7") == marked


def test_deny_refuses_in_enforce_mode_only() -> None:
    with pytest.raises(BadCall, match="No price is known of model 'gpt-7'") as raised:
        without_price(policy(UnpricedEffect.DENY), Mode.ENFORCE, "gpt-7")
    assert raised.value.code == "unpriced_model"


@pytest.mark.parametrize(
    ("unpriced", "outcome", "would_refuse"),
    [
        (Unpriced.PASSES, Outcome.ALLOW, False),
        (Unpriced.FLAGGED, Outcome.FLAG, False),
        (Unpriced.WOULD_REFUSE, Outcome.FLAG, True),
    ],
)
def test_the_mark_shows_in_the_decision(
    unpriced: Unpriced, outcome: Outcome, would_refuse: bool
) -> None:
    receipt = Receipt(Verdict.HELD, 0)
    decision = decide(receipt, StopLossPolicy(), Mode.ENFORCE, 0, unpriced)
    assert (decision.outcome, decision.would_refuse) == (outcome, would_refuse)
