"""What a call is charged: the provider's counts, else an estimate that says that it is one.

Sources: USE-1..3, EC7 of the plan; what providers bill after a disconnect, `docs/wire.md`.
"""

from msgspec import Struct

from gateway.core.decision import Receipt
from gateway.core.dialects import openai_chat
from gateway.core.usage import NO_USAGE, Usage, UsageSource
from gateway.planner import Call, Plan
from gateway.ports import Tokenizer
from gateway.relay import Relay

MISSING_USAGE_WARNING = "Budget tracker using estimated tokens (model response lacked usage data)"
_ERROR_STATUS = 400


class Charge(Struct, frozen=True):
    """Raw counts and where they come from. `lacked_usage`: a whole answer that reported none."""

    usage: Usage
    source: UsageSource
    lacked_usage: bool = False


async def account(
    call: Call, plan: Plan, receipt: Receipt | None, relay: Relay, tokenizer: Tokenizer
) -> Charge:
    """Return what an answer, whole or cut, is charged.

    - Usage was reported: that.
    - The provider answered with an error and no usage, or was never reached: nothing.
    - A stream: the input counted, and the output that was seen. Nobody bills more after a cut.
    - A whole JSON answer without usage: both counted.
    - A JSON answer that never came whole, or no answer at all: it may be billed in full and its
      length is unknown, so the hold is charged.
    """
    reported = relay.seen.reported_usage()
    if reported is not None:
        return Charge(reported, UsageSource.PROVIDER)
    never_sent = relay.error is not None and not relay.error.sent
    only_error = relay.seen.error_seen and not relay.seen.chars
    if never_sent or only_error or relay.status >= _ERROR_STATUS:
        return Charge(NO_USAGE, UsageSource.NONE)
    cut_stream = relay.is_stream and (relay.answered or relay.client_left_early)
    if not cut_stream and not relay.complete:
        return Charge(_held(plan, receipt), UsageSource.ESTIMATED)
    usage = await _counted(call, relay, tokenizer)
    return Charge(usage, UsageSource.ESTIMATED, lacked_usage=relay.complete)


def _held(plan: Plan, receipt: Receipt | None) -> Usage:
    need = plan.reserve.need
    output = receipt.output if receipt is not None else need.output
    return Usage(input_total=need.input_high, output_total=output)


async def _counted(call: Call, relay: Relay, tokenizer: Tokenizer) -> Usage:
    input_tokens = await count_input(call, tokenizer)
    model = call.chat.model if call.chat else ""
    output_tokens = await tokenizer.count(model, ["".join(relay.seen.text)])
    return Usage(input_total=input_tokens, output_total=output_tokens)


async def count_input(call: Call, tokenizer: Tokenizer) -> int:
    """Return the input tokens of a request, counted exactly as far as text goes."""
    text, overhead = openai_chat.countable_text(call.request.body)
    model = call.chat.model if call.chat else ""
    return overhead + await tokenizer.count(model, [text])
