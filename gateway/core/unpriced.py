"""What becomes of a call whose model has no known price: an unknown price is not free (GW-5)."""

from gateway.core.errors import BadCall
from gateway.core.policy import Mode, UnpricedEffect, UnpricedModelPolicy
from gateway.core.prices import ModelPrice
from gateway.core.vocabulary import Vocabulary


class Unpriced(Vocabulary):
    """How a missing price shows in the decision: not at all, or as a flag."""

    PASSES = "passes"
    FLAGGED = "flagged"
    WOULD_REFUSE = "would_refuse"


def without_price(
    policy: UnpricedModelPolicy, mode: Mode, model: str
) -> tuple[Unpriced, ModelPrice | None]:
    """Return how the call is marked, and the price to take for it if the policy states one.

    Raises BadCall (`unpriced_model`) where the policy denies in enforce mode.
    """
    if mode is Mode.OFF:
        return Unpriced.PASSES, None
    if policy.effect is UnpricedEffect.ASSUME:
        return Unpriced.PASSES, policy.assume
    if policy.effect is UnpricedEffect.FLAG:
        return Unpriced.FLAGGED, None
    if mode is Mode.OBSERVE:
        return Unpriced.WOULD_REFUSE, None
    raise BadCall(
        "unpriced_model",
        f"No price is known of model {model[:80]!r}, so its cost cannot be held to a budget. "
        "Retrying will not help. Use another model, or ask an operator to state its price.",
    )
