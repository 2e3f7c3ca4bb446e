"""What a call is charged: the provider's counts, else an estimate that says that it is one.

Sources: USE-1..3, EC7 of the plan; what providers bill after a disconnect, `docs/wire.md`.
"""

from msgspec import Struct, structs

from gateway.core.decision import Receipt
from gateway.core.prices import ModelPrice
from gateway.core.usage import NO_USAGE, Usage, UsageSource
from gateway.planner import Call, Plan
from gateway.ports import Tokenizer
from gateway.relay import Relay

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
    call: Call, plan: Plan, receipt: Receipt | None, relay: Relay, tokenizer: Tokenizer
) -> Charge:
    """Return what an answer, whole or cut, is charged.

    - Usage was reported: that.
    - Usage was reported that cannot be true (negative, huge, parts above their whole): the hold.
    - The provider answered with an error and no usage, or was never reached: nothing.
    - A stream: the input that was reported, else counted, and the output that was seen. Nobody
      bills more after a cut.
    - A whole JSON answer without usage: both counted.
    - A JSON answer that never came whole, or no answer at all: it may be billed in full and its
      length is unknown, so the hold is charged. So it is for an answer in the background.
    """
    reported = relay.seen.reported_usage()
    if reported is not None:
        return Charge(reported, UsageSource.PROVIDER)
    if relay.seen.is_doubtful:
        return Charge(_held(plan, receipt), UsageSource.ESTIMATED, is_doubtful=True)
    never_sent = relay.error is not None and not relay.error.sent
    only_error = relay.seen.error_seen and not relay.seen.chars
    if never_sent or only_error or relay.status >= _ERROR_STATUS:
        return Charge(NO_USAGE, UsageSource.NONE)
    cut_stream = relay.is_stream and (relay.answered or relay.client_left_early)
    ends_elsewhere = call.asked is not None and call.asked.is_background
    if ends_elsewhere or (not cut_stream and not relay.complete):
        return Charge(_held(plan, receipt), UsageSource.ESTIMATED)
    usage = await _counted(call, relay, tokenizer)
    return Charge(usage, UsageSource.ESTIMATED, lacked_usage=relay.complete)


def _held(plan: Plan, receipt: Receipt | None) -> Usage:
    need = plan.reserve.need
    output = receipt.output if receipt is not None else need.output
    return Usage(input_total=need.input_high, output_total=output)


async def _counted(call: Call, relay: Relay, tokenizer: Tokenizer) -> Usage:
    """Return the input as it was last reported, if it was, and the output that was seen."""
    known = relay.seen.usage or NO_USAGE
    model = call.asked.model if call.asked else ""
    output = await tokenizer.count(model, ["".join(relay.seen.text)])
    if not known.input_total:
        return Usage(input_total=await count_input(call, tokenizer), output_total=output)
    return structs.replace(
        known, output_total=max(output, known.output_total), provider_nano_usd=None
    )


async def count_input(call: Call, tokenizer: Tokenizer) -> int:
    """Return the input tokens of a request, counted exactly as far as text goes."""
    if call.wire is None or call.asked is None:
        return 0
    text, overhead = call.wire.countable_text(call.request.body)
    return overhead + await tokenizer.count(call.asked.model, [text])


def cost_of(usage: Usage, price: ModelPrice | None) -> int | None:
    """Return nano-dollars: what the provider says that it charged, else by the price list."""
    if usage.provider_nano_usd is not None:
        return usage.provider_nano_usd
    return price.cost_nano_usd(usage) if price else None
