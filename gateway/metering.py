"""What every metered call goes through, whatever carries it: plan, reserve, decide, settle.

`lifecycle` (HTTP) and `socket_lifecycle` (WebSocket) tell when; here is how. One a worker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from msgspec import structs

from gateway.accounting import account, cost_of, count_input
from gateway.call import Call, with_cheaper_model
from gateway.callers import Callers
from gateway.clamp import decision_on
from gateway.core.admission import Verdict
from gateway.core.allowance import LocalAllowance
from gateway.core.call_facts import MOST_TEXT
from gateway.core.configuration import DataPlane, Rules
from gateway.core.decision import (
    Decision,
    Outcome,
    Receipt,
)
from gateway.core.dialects.wire_format import ModelRequest
from gateway.core.errors import CallError, StoreError
from gateway.core.estimate import InputEstimate, LearnedInput, LearnedOutput, counted_input
from gateway.core.loops import loop_events
from gateway.core.policy import Mode, StoreFailure
from gateway.core.prices import ModelsInUse
from gateway.core.remediation import remediation_task
from gateway.core.routing import Routing
from gateway.core.usage import NO_USAGE, UsageSource
from gateway.first_facts import first_facts, known_facts
from gateway.oddities import Oddities
from gateway.open_calls import renew_leases
from gateway.planner import Plan, Planner
from gateway.ports import (
    Background,
    BackgroundCall,
    Doors,
    Settlement,
    Stale,
    StaleKey,
    StalePhase,
    StaleSession,
    TaskFacts,
    TooManyTasks,
)
from gateway.relay import Carried
from gateway.trace import Trace, outcome_of

Stored = TypeVar("Stored")

_MOST_PLANS = 7  # first guess, other facts, phase, switched, cheaper, counted, one for a race
_RETRY_S = (0.05, 0.2, 0.5, 1.0)


class Metering:
    """The steps around relaying; everything it holds is bounded or belongs to open calls."""

    def __init__(self, plane: DataPlane, rules: Rules, doors: Doors) -> None:
        self._plane = plane
        self._doors = doors
        self.callers = Callers(plane, doors)
        self.routing = Routing(plane.upstreams)
        self._learned = LearnedOutput()
        self._learned_input = LearnedInput()
        self.models_in_use = ModelsInUse()
        self.use_rules(rules)
        self._allowance = LocalAllowance()
        self._open: dict[str, tuple[Plan, Carried]] = {}
        self._oddities = Oddities(doors.recorder)

    def use_rules(self, rules: Rules) -> None:
        """Use other rules from the next call on; open calls keep theirs."""
        self.planner = Planner(
            self._plane,
            rules,
            self._learned,
            self._learned_input,
            self.models_in_use,
            self._doors.store.switch_of(self._plane.tenant),
        )

    # 3 plan, 4 reserve --------------------------------------------------------------------------

    async def reserve(
        self, trace: Trace, call: Call, asked: ModelRequest, planner: Planner
    ) -> tuple[Plan, Receipt | None]:
        """Plan the call and ask the store, once more where the plan was made on wrong facts.

        No receipt means that the store failed and the policy lets calls pass.
        """
        call, facts = await self._authorised(trace, call, planner)
        estimate = planner.estimate(call, asked)
        for _ in range(_MOST_PLANS):
            plan = trace.plan = planner.plan(call, asked, facts, estimate)
            try:
                receipt = await self._doors.store.reserve(plan.reserve)
            except Stale as stale:
                call, facts = await self._as_of_now(trace, call, facts, planner, stale)
            except StoreError as error:
                self._allow_without_store(trace, plan, error)
                return plan, None
            else:
                if receipt.verdict not in (Verdict.COUNT, Verdict.SOFT):
                    trace.receipt = receipt
                    planner.note_phase(call.task, receipt.phase)
                    self._allowance.renew(call.task)
                    return plan, receipt
                call, asked, estimate = await self._known_better(
                    trace, call, asked, plan, planner, receipt.verdict
                )
        raise CallError("budget_store_unavailable", "The task's budget keeps changing.")

    async def check_socket(self, trace: Trace, call: Call, planner: Planner) -> None:
        """Raise CallError for a socket's handshake if no call on it could be let through.

        What begins on a socket by itself is paid for before it can be refused.
        """
        call = await self.callers.authorise_unreserved(trace, call, planner)
        if not self._plane.tracking:
            return
        call, facts = await self._authorised(trace, call, planner)
        if call.is_untagged:
            planner.mark_untagged(call, facts)

    async def plan_charge(
        self, trace: Trace, call: Call, asked: ModelRequest, planner: Planner
    ) -> tuple[Call, Plan]:
        """Return by what a call is charged that runs though nothing let it through.

        It begins no task: for one that is not there its key's bucket pays.
        """
        facts = await known_facts(self._doors, self._plane.tenant, call.task)
        if facts is None:
            trace.tags = structs.replace(call.tags, task=None)
            call = trace.call = structs.replace(call, tags=trace.tags)
            facts = await self._facts(call, planner)
        estimate = planner.estimate(call, asked)
        plan = trace.plan = planner.plan(call, asked, facts, estimate, is_judged=False)
        return call, plan

    async def _authorised(
        self, trace: Trace, call: Call, planner: Planner
    ) -> tuple[Call, TaskFacts]:
        """Return the call, if its key lets it go, with its task as its session names it by now."""
        call = await self.callers.authorise(trace, call, planner)
        facts = await self._facts(call, planner)
        if call.is_untagged and call.tags.session is not None:
            call = await self.callers.tagged_by_now(trace, call, planner, facts)
            facts = await self._facts(call, planner)
        return call, facts

    async def _as_of_now(
        self, trace: Trace, call: Call, facts: TaskFacts, planner: Planner, stale: Stale
    ) -> tuple[Call, TaskFacts]:
        """Return what to plan with anew; of the switch the planner knows already."""
        if isinstance(stale, StaleKey | StaleSession):
            now = stale.text if isinstance(stale, StaleKey) else ""
            call = await self.callers.as_of_today(trace, call, planner, key_now=now)
            return call, await self._facts(call, planner)
        if isinstance(stale, StalePhase):
            planner.note_phase(call.task, stale.phase)
        return call, self._doors.store.facts_of(self._plane.tenant, call.task) or facts

    async def _facts(self, call: Call, planner: Planner) -> TaskFacts:
        """Return what the call's task is, as far as this worker has seen."""
        tenant = self._plane.tenant
        known = self._doors.store.facts_of(tenant, call.task)
        return known or await first_facts(self._doors, tenant, call, planner)

    async def _known_better(
        self,
        trace: Trace,
        call: Call,
        asked: ModelRequest,
        plan: Plan,
        planner: Planner,
        verdict: Verdict,
    ) -> tuple[Call, ModelRequest, InputEstimate]:
        """Return what to plan with anew: the input counted, or, above its line, another model."""
        if verdict is Verdict.SOFT:
            cheaper = with_cheaper_model(call, plan.shape.cheaper_model)
            if cheaper is not None and cheaper.asked is not None:
                trace.attempt(cheaper)
                return cheaper, cheaper.asked, planner.estimate(cheaper, cheaper.asked)
        trace.is_counted = True
        counted = await count_input(call, self._doors.tokenizer)
        return call, asked, counted_input(plan.estimate, asked.model, asked.media, counted)

    def _allow_without_store(self, trace: Trace, plan: Plan, error: StoreError) -> None:
        """Let the call pass unchecked, or not, as the policy says for a store that fails.

        A key that may begin no further task is no failure: that is refused.
        """
        if isinstance(error, TooManyTasks):
            trace.plan = None
            raise CallError(error.code, str(error)) from None
        self._doors.recorder.event(
            "store_failed", "error", call_id=trace.call_id, reason=error.reason
        )
        policy, need = plan.policy, plan.reserve.need
        if plan.mode is not Mode.ENFORCE or policy.store_failure is StoreFailure.OPEN:
            return
        tokens = need.input_high + need.output_tokens(need.output)
        if policy.store_failure is StoreFailure.ALLOWANCE and self._allowance.take(
            plan.reserve.task, tokens, policy.allowance_tokens
        ):
            return
        raise CallError(
            "budget_store_unavailable", "The budget store does not answer; ask again shortly."
        )

    # 5 decide -----------------------------------------------------------------------------------

    def decide(self, trace: Trace, plan: Plan, receipt: Receipt | None) -> Decision:
        """Return the decision; one made without the store is a flag."""
        if receipt is None:
            trace.decision = Decision(Outcome.FLAG)
            return trace.decision
        if not trace.is_counted:
            trace.decided_at = self._doors.clock()
        asked = plan.reserve
        trace.decision = decision_on(trace.call, plan, receipt)
        self._oddities.tell_of_phases(asked.task, receipt)
        if asked.loop is not None and receipt.loop is not None:
            for event, level in loop_events(asked.loop, receipt.loop):
                self._doors.recorder.event(event, level, task=asked.task, policy=asked.loop.policy)
        if receipt.tripped_now and receipt.stop_scope is not None:
            self._doors.recorder.event(
                "stop_loss_tripped",
                "critical",
                task=receipt.stop_scope.name,
                code=trace.decision.code,
                episode=receipt.episode,
                remediation=remediation_task(receipt.stop_scope.name, receipt.episode),
                message=trace.decision.message,
            )
        return trace.decision

    def decide_unmetered(self, trace: Trace, call: Call, planner: Planner) -> Decision:
        """Return the decision for a call that is not metered; the store is not asked."""
        if not self._plane.tracking:
            trace.decision = Decision(Outcome.ALLOW)
            return trace.decision
        facts = self._doors.store.facts_of(self._plane.tenant, call.task)
        decision = trace.decision = planner.decide_unmetered(call, facts)
        trace.code = decision.code
        return decision

    # 8 settle -----------------------------------------------------------------------------------

    async def settle(
        self, trace: Trace, call: Call, plan: Plan, relay: Carried, planner: Planner
    ) -> None:
        """Replace the hold by what was used, exactly once, whatever happened."""
        if not relay.sent:
            return  # to be released
        receipt = trace.receipt
        charge = trace.charge = await account(call, plan, receipt, relay, self._doors.tokenizer)
        if relay.drain_cut and charge.source is not UsageSource.PROVIDER:
            self._doors.recorder.event(
                "drain_cut", "warning", call_id=call.call_id, cap=relay.drain_cut
            )
        usage = charge.usage
        price = planner.price_of(call, relay.seen.model) or plan.price
        trace.tokens = usage.budget_tokens(plan.reserve.facts.weights)
        trace.nano_usd = cost_of(usage, price)
        settlement = Settlement(
            plan.reserve,
            receipt.phase if receipt is not None else plan.reserve.phase,
            trace.tokens,
            trace.nano_usd or 0,
            usage,
            charge.source,
            trace.decision is not None and trace.decision.would_refuse,
            outcome_of(trace, self._doors.clock()),
        )
        if charge.source is UsageSource.ESTIMATED and relay.seen.background_id:
            settlement = await self._provisional(settlement, relay.seen.background_id)
        settled = await self._until_stored(lambda: self._doors.store.settle(settlement))
        if charge.source is UsageSource.PROVIDER and call.asked is not None:
            self._learned.learn(call.asked.model, call.phase_tag, usage.output_total)
            self._learned_input.learn(call.asked.model, plan.estimate, usage.input_total)
        self._oddities.tell_of_charge(call, trace.phase_name, charge, settled)

    async def _provisional(self, settlement: Settlement, response_id: str) -> Settlement:
        """Note to whom an answer in the background will belong; without the note this is final."""
        background = BackgroundCall(settlement.plan, settlement.phase, settlement.outcome)
        try:
            await self._doors.store.remember_response(self._plane.tenant, response_id, background)
        except StoreError as error:
            self._doors.recorder.event("store_failed", "error", reason=error.reason)
            return settlement
        return structs.replace(settlement, background=Background.QUEUED)

    async def settle_later_answer(
        self, trace: Trace, call: Call, relay: Carried, planner: Planner
    ) -> None:
        """Settle the call that an answer in the background belongs to, once it is known for good.

        However often it is fetched, and by whatever gateway: settling is idempotent by call. One
        that failed without usage used nothing; one that was cancelled without usage, or whose
        stream broke, keeps its estimate. The ledger keeps what it was told of the call, but for
        what it used.
        """
        failed = NO_USAGE if relay.seen.background_failed else None
        usage = relay.seen.reported_usage() or failed
        if usage is None:
            return
        tenant, store = self._plane.tenant, self._doors.store
        try:
            owner = await store.recall_response(tenant, relay.seen.background_id)
        except StoreError as error:  # the next fetch tries again
            self._doors.recorder.event("store_failed", "error", reason=error.reason)
            return
        if owner is None:
            return
        known = owner.outcome
        model = relay.seen.model or known.model_served
        nano_usd = cost_of(usage, planner.price_of(call, model or owner.plan.about.model))
        if not known.decision:  # noted by an older gateway
            known = outcome_of(trace, self._doors.clock())
        outcome = structs.replace(
            known,
            model_served=model[:MOST_TEXT],
            usage=usage,
            source=UsageSource.PROVIDER.value,
            priced=nano_usd is not None,
        )
        settlement = Settlement(
            owner.plan,
            owner.phase,
            usage.budget_tokens(owner.plan.facts.weights),
            nano_usd or 0,
            usage,
            UsageSource.PROVIDER,
            known.would_refuse,
            outcome,
            Background.DONE,
        )
        await self._until_stored(lambda: store.settle(settlement))

    async def release_unsent(self, trace: Trace) -> None:
        """Give the hold back, if there may be one and nothing was sent to the provider."""
        plan, relay = trace.plan, trace.relay
        refused = trace.decision is not None and trace.decision.refuses
        if plan is None or refused or (relay is not None and relay.sent):
            return
        outcome = outcome_of(trace, self._doors.clock())
        await self._until_stored(lambda: self._doors.store.release(plan.reserve, outcome))

    async def pass_over(self, trace: Trace, reason: str) -> None:
        """Give the hold of an attempt back that another one follows: an error costs nothing."""
        plan, call = trace.plan, trace.call
        if plan is None or call is None:
            return
        upstream = call.route.upstream
        self._doors.recorder.event(
            "upstream_passed_over",
            "warning",
            call_id=call.call_id,
            upstream=upstream,
            reason=reason,
        )
        trace.passed_over += (f"{upstream}={reason}",)
        trace.status, trace.code = (int(reason), "") if reason.isdigit() else (0, reason)
        outcome = outcome_of(trace, self._doors.clock())
        await self._until_stored(lambda: self._doors.store.release(plan.reserve, outcome))
        self.end(call.call_id)
        trace.plan = trace.receipt = trace.decision = trace.relay = None
        trace.status, trace.code = 0, ""

    async def _until_stored(self, act: Callable[[], Awaitable[Stored]]) -> Stored:
        """Repeat an idempotent act until the store has done it."""
        attempt = 0
        while True:
            try:
                return await act()
            except StoreError as error:
                self._doors.recorder.event("store_failed", "error", reason=error.reason)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1

    # Open calls ---------------------------------------------------------------------------------

    def open(self, call_id: str, plan: Plan, carried: Carried) -> None:
        """Renew the call's lease from now on."""
        self._open[call_id] = plan, carried

    def end(self, call_id: str) -> None:
        """Take note that the call is over."""
        self._open.pop(call_id, None)

    async def look_at_switch(self) -> None:
        """Take note whether enforcement is on, for what is decided without the store."""
        with suppress(StoreError):
            await self._doors.store.read_switch(self._plane.tenant)

    async def heartbeat(self) -> None:
        """Renew the leases of all open calls, raise holds that they outgrew, stop what is over."""
        store, recorder = self._doors.store, self._doors.recorder
        await renew_leases(self._open, store, recorder, self._plane.tenant)

    @property
    def open_calls(self) -> int:
        """Return how many metered calls are with a provider or not settled yet."""
        return len(self._open)
