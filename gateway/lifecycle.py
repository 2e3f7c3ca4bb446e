"""The way of a call, top to bottom: the page to read first.

`carry` tells it in nine named steps; what they need follows in the order in which it runs. The same
steps, with reasons, are in `docs/life-of-a-call.md`. Step 1 is in `callers`, 2 in `call`, and 3, 4,
5 and 8 are in `metering`.
"""

from gateway.call import Call, read_call
from gateway.core.configuration import DataPlane, Rules
from gateway.core.dialects.wire_format import ModelRequest, edited_body
from gateway.core.errors import CallError, UpstreamError
from gateway.core.headers import request_headers
from gateway.core.identity import ErrorShape
from gateway.core.keys import without_keys
from gateway.core.own_budget import asks_own_budget
from gateway.fallback import Attempt, Gate, attempts
from gateway.metering import Metering
from gateway.own_budget import own_budget
from gateway.planner import Plan, Planner
from gateway.ports import Doors, Downstream, Request, ResponseSink
from gateway.relay import Drains, Relay
from gateway.trace import Trace, budget_comment, head_lines, record_of
from gateway.untracked import read_untracked, unread
from gateway.usage_wish import REFUSED, UsageWishes, WishGate

_FIRST_ERROR = 400


class Lifecycle:
    """Carries calls. One a worker; everything it holds is bounded or belongs to open calls."""

    def __init__(self, plane: DataPlane, rules: Rules, doors: Doors) -> None:
        self._plane = plane
        self._doors = doors
        self.metering = Metering(plane, rules, doors)
        self._wishes = UsageWishes()
        self._drains = {name: Drains(upstream) for name, upstream in plane.upstreams.items()}

    # The way of a call --------------------------------------------------------------------------

    async def carry(self, request: Request, downstream: Downstream) -> None:
        """Carry one call from its request to its record. Never raises."""
        metering = self.metering
        planner = metering.planner  # one snapshot of the rules for the whole call
        trace = Trace(self._doors.new_call_id(), request, planner.rules.policies.policy_hash)
        trace.is_tracked = self._plane.tracking
        try:
            tags, route = await metering.callers.identify(trace, planner)
            if trace.is_tracked and asks_own_budget(request.method, route):
                await self._tell_budget(trace, planner, downstream)
                return
            routing, key = metering.routing, trace.key
            if not trace.is_tracked:
                await self._proxy(trace, read_untracked(trace, routing), planner, downstream)
                return
            call = trace.call = read_call(
                trace.call_id, request, tags, route, routing, key, self._plane.tenant
            )
            if call.asked is None:
                call = await metering.callers.authorise_unreserved(trace, call, planner)
                await self._pass(trace, call, planner, downstream)
            else:
                await self._meter(trace, call, call.asked, planner, downstream)
        except CallError as error:
            self._answer(trace, error.code, error.message, downstream)
        except Exception as error:  # a call's life ends here: say so, cut what is open, go on
            self._doors.recorder.event(
                "internal_error", "error", call_id=trace.call_id, error=repr(error)
            )
            self._answer(trace, "internal_error", "The gateway failed.", downstream)
        finally:
            await metering.release_unsent(trace)
            metering.end(trace.call_id)
            if trace.is_call:
                self._doors.recorder.call(record_of(trace, self._plane.tenant, self._doors.clock()))

    async def _meter(
        self,
        trace: Trace,
        call: Call,
        asked: ModelRequest,
        planner: Planner,
        downstream: Downstream,
    ) -> None:
        """Make the call at its upstream; while one fails, anew at the next that stands in."""
        metering = self.metering
        for planned in attempts(call, metering.routing):
            trace.attempt(planned.call)
            plan, receipt = await metering.reserve(trace, planned.call, asked, planner)
            attempt = planned.of(trace.call or planned.call)
            decision = metering.decide(trace, plan, receipt)
            if decision.refuses:
                self._answer(trace, decision.code, decision.message, downstream)
                return
            relay = await self._forward(trace, attempt, plan, downstream)
            await relay.done
            if relay.passed_over == REFUSED:
                relay = await self._forward_unasked(trace, attempt, plan, downstream)
            if not relay.passed_over:
                self._close(trace, relay, downstream)
                await metering.settle(trace, attempt.call, plan, relay, planner)
                return
            await metering.pass_over(trace, relay.passed_over)

    # 6 forward, 7 relay -------------------------------------------------------------------------

    async def _forward(
        self,
        trace: Trace,
        attempt: Attempt,
        plan: Plan,
        downstream: Downstream,
        *,
        may_ask: bool = True,
    ) -> Relay:
        """Send a metered call on with the edits it needs; the relay then runs by itself."""
        call = attempt.call
        wire, asked = call.wire, call.asked
        if wire is None or asked is None:
            raise ValueError("only a metered call has a plan")
        upstream = self._plane.upstreams[call.route.upstream]
        hide_usage = (
            asked.usage_wish is not None
            and upstream.include_usage
            and may_ask
            and self._wishes.may_ask(call.route.upstream, asked.model)
        )
        clamp = trace.decision.clamp if trace.decision else None
        body = edited_body(wire, call.request.body, asked, ask_usage=hide_usage, clamp=clamp)
        relay = trace.relay = Relay(
            downstream,
            self._doors.clock,
            wire=wire,
            asked=asked,
            hide_usage=hide_usage,
            head_lines=head_lines(trace),
            drains=self._drains[call.route.upstream],
        )
        if self._plane.budget_comment:
            relay.comment = budget_comment(trace, plan)
        self.metering.open(call.call_id, plan, relay)
        await self._send(attempt, relay, body, downstream)
        return relay

    async def _forward_unasked(
        self, trace: Trace, attempt: Attempt, plan: Plan, downstream: Downstream
    ) -> Relay:
        """Send a stream anew that was refused for our wish, without it, and see it to its end.

        The hold stays: nothing was generated. Where this helps, later streams are not asked.
        """
        relay = await self._forward(trace, attempt, plan, downstream, may_ask=False)
        await relay.done
        upstream, model = attempt.call.route.upstream, attempt.call.model or ""
        if 0 < relay.status < _FIRST_ERROR and self._wishes.refused(upstream, model):
            self._doors.recorder.event(
                "usage_not_offered", "warning", upstream=upstream, model=model
            )
        return relay

    async def _pass(
        self, trace: Trace, call: Call, planner: Planner, downstream: Downstream
    ) -> None:
        """Relay a call that is not metered, its body untouched, if its route may be used."""
        decision = self.metering.decide_unmetered(trace, call, planner)
        if decision.refuses:
            self._answer(trace, decision.code, decision.message, downstream)
            return
        relay = trace.relay = Relay(
            downstream,
            self._doors.clock,
            wire=call.wire,
            asked=None,
            hide_usage=False,
            head_lines=head_lines(trace),
            drains=self._drains[call.route.upstream],
        )
        await self._send(Attempt(call), relay, call.request.body, downstream)
        await relay.done
        self._close(trace, relay, downstream)
        if relay.seen.background_id:
            await self.metering.settle_later_answer(trace, call, relay, planner)

    async def _proxy(
        self, trace: Trace, call: Call, planner: Planner, downstream: Downstream
    ) -> None:
        """Relay a call where nothing is tracked: where its key lets it go, and as it came."""
        call = trace.call = unread(
            await self.metering.callers.authorise_unreserved(trace, call, planner)
        )
        await self._pass(trace, call, planner, downstream)

    async def _send(
        self, attempt: Attempt, relay: Relay, body: bytes, downstream: Downstream
    ) -> None:
        """Write the request to a provider's connection, unless the client has gone meanwhile.

        Raises UpstreamError if there is no connection and no other upstream to try: then nothing
        was sent.
        """
        call = attempt.call
        upstream = self._plane.upstreams[call.route.upstream]
        headers = request_headers(
            call.request.headers, forward_tags=upstream.forward_tags, metered=call.wire is not None
        )
        if call.key is not None:
            headers = without_keys(headers)
        target, headers = self.metering.routing.outgoing(call.route, headers)
        sink: ResponseSink = relay
        if attempt.fallback_on:
            sink = Gate(relay, attempt.fallback_on)
        if relay.hides_usage:
            sink = WishGate(sink, relay)
        try:
            exchange = await self._doors.upstreams.connect(call.route.upstream, sink)
        except UpstreamError as error:
            if not attempt.follows_no_connection:
                raise
            relay.pass_over(error.code)
            return
        if not downstream.is_open:
            exchange.cancel()
            relay.give_up_unsent()
            return
        exchange.send(call.request.method, target, headers, body)
        relay.sent = True
        relay.follow(exchange)

    def _close(self, trace: Trace, relay: Relay, downstream: Downstream) -> None:
        """Answer for a provider that broke off before its head; else the client has its answer."""
        trace.status = relay.status
        if relay.stopped:
            trace.code = relay.stopped
        if relay.error is not None and not relay.answered:
            self._answer(trace, relay.error.code, relay.error.message, downstream)

    # Beside the way -----------------------------------------------------------------------------

    async def _tell_budget(self, trace: Trace, planner: Planner, downstream: Downstream) -> None:
        """Answer an agent that asks for its budget: this is no call."""
        trace.is_call = False
        store = self._doors.store
        answer = await own_budget(trace, self.metering, planner, store, self._plane.tenant)
        downstream.send(answer, head_lines(trace))

    def _answer(self, trace: Trace, code: str, message: str, downstream: Downstream) -> None:
        """Send an answer of our own, or cut one that has begun."""
        trace.code = code
        if trace.relay is not None and trace.relay.answered:
            downstream.abort()
            return
        shape = trace.route.error_shape if trace.route else ErrorShape.OPENAI_ANTHROPIC
        status = trace.key.refusal_status if trace.key else None
        task = trace.tags.task or ""
        answer = self._doors.wording.answer(code, message, shape, trace.call_id, status, task)
        trace.status = answer.status
        downstream.send(answer, head_lines(trace))
