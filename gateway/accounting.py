"""What a call is charged: the provider's counts, else an estimate that says that it is one.

Sources: USE-1..3, EC7 of the plan; what providers bill after a disconnect, `docs/wire.md`.
"""

from msgspec import Struct, structs

from gateway.call import Call
from gateway.core.decision import Receipt
from gateway.core.estimate import COUNTABLE_BYTES
from gateway.core.model_text import text_rule
from gateway.core.prices import ModelPrice
from gateway.core.usage import NO_USAGE, Usage, UsageSource
from gateway.planner import Plan
from gateway.ports import Tokenizer
from gateway.relay import Carried

MISSING_USAGE_WARNING = "Budget tracker using estimated tokens (model response lacked usage data)"
_ERROR_STATUS = 400


class Charge(Struct, frozen=True):
    """Raw counts and where they come from.

    `lacked_usage`: a whole answer that reported none. `is_doubtful`: it reported what cannot be.
    """

    usage: Usage
    source: UsageSource
    lacked_usage: bool = False
    is_doubtful: bool = False


async def account(
    call: Call, plan: Plan, receipt: Receipt | None, relay: Carried, tokenizer: Tokenizer
) -> Charge:
    """Return what an answer, whole or cut, is charged.

    - Usage was reported: that.
    - Usage was reported that cannot be true (negative, huge, parts above their whole): the hold.
    - The provider answered with an error and no usage, or was never reached: nothing.
    - A stream: the input that was reported, else counted, and the output that was seen. Nobody
      bills more after a cut.
    - A whole JSON answer without usage: both counted.
    - A JSON answer that never came whole, or no answer at all: it may be billed in full and its
      length is unknown, so the hold is charged. So it is for an answer in the background, and for
      images and sound that nothing was reported of.
    """
    reported = relay.seen.reported_usage()
    if reported is not None:
        return Charge(reported, UsageSource.PROVIDER)
    if relay.seen.is_doubtful:
        return Charge(_held(call, plan, receipt), UsageSource.ESTIMATED, is_doubtful=True)
    never_sent = relay.error is not None and not relay.error.sent
    only_error = relay.seen.error_seen and not relay.seen.chars and not relay.seen.may_go_on
    if never_sent or only_error or relay.status >= _ERROR_STATUS:
        return Charge(NO_USAGE, UsageSource.NONE)
    cut_stream = relay.is_stream and (relay.answered or relay.client_left_early)
    if _tells_nothing(call) or (not cut_stream and not relay.complete):
        return Charge(_held(call, plan, receipt), UsageSource.ESTIMATED)
    usage = await _counted(call, plan, relay, tokenizer)
    return Charge(usage, UsageSource.ESTIMATED, lacked_usage=relay.complete)


def _tells_nothing(call: Call) -> bool:
    """Return whether an answer's text says nothing of its length: it is no text, or elsewhere."""
    return call.asked is not None and (call.asked.is_background or call.asked.is_uncountable)


def _held(call: Call, plan: Plan, receipt: Receipt | None) -> Usage:
    need = plan.reserve.need
    output = receipt.output if receipt is not None else need.output
    return _with_pieces(call, Usage(input_total=need.input_high, output_total=output))


def _with_pieces(call: Call, usage: Usage) -> Usage:
    """Return a usage with what the request asked for in other units than tokens, on its terms."""
    pieces = call.asked.pieces if call.asked else NO_USAGE
    if pieces is NO_USAGE:
        return usage
    return structs.replace(
        usage,
        seconds=pieces.seconds,
        characters=pieces.characters,
        images=pieces.images,
        terms=pieces.terms,
    )


async def _counted(call: Call, plan: Plan, relay: Carried, tokenizer: Tokenizer) -> Usage:
    """Return the input as it was last reported, else counted, and the output that was seen.

    A count is by the encoding of `text_rule`, times the model's ratio to it.
    """
    known = relay.seen.usage or NO_USAGE
    model = call.asked.model if call.asked else ""
    rule = text_rule(model)
    output = rule.scaled(await tokenizer.count(model, ["".join(relay.seen.text)]))
    if not known.input_total:
        text = await count_input(call, tokenizer)
        estimate = plan.estimate
        counted = estimate.expected if text is None else rule.scaled(text) + estimate.images
        return _with_pieces(call, Usage(input_total=counted, output_total=output))
    return structs.replace(
        known, output_total=max(output, known.output_total), provider_nano_usd=None
    )


async def count_input(call: Call, tokenizer: Tokenizer) -> int | None:
    """Return the tokens of a request's text and of its frame; None if they cannot be counted."""
    if call.asked is None or len(call.request.body) > COUNTABLE_BYTES:
        return None
    return await tokenizer.count_request(call.asked.model, call.route.dialect, call.request.body)


def cost_of(usage: Usage, price: ModelPrice | None) -> int | None:
    """Return nano-dollars: what the provider says that it charged, else by the price list.

    None where nothing that was used has a price.
    """
    if usage.provider_nano_usd is not None:
        return usage.provider_nano_usd
    return price.cost_nano_usd(usage) if price and price.answers(usage) else None
