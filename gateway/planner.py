"""Step 3, plan: from a call to the one reserve that is made for it.

No I/O: what is known about a task comes in as facts, what is in force as one `Rules` snapshot.
"""

from msgspec import Struct, structs

from gateway.call import Call, takes_model
from gateway.call_about import about_call, about_gate
from gateway.core.admission import Need
from gateway.core.budget import TaskLimits, TaskProfile, task_limits
from gateway.core.configuration import DataPlane, Rules
from gateway.core.decision import Decision, effects_of
from gateway.core.dialects.prompt_media import TEXT_ONLY
from gateway.core.dialects.wire_format import ModelRequest
from gateway.core.enforcement import Switch
from gateway.core.estimate import (
    InputEstimate,
    LearnedInput,
    LearnedOutput,
    estimate_input,
    least_output,
    output_ceiling,
)
from gateway.core.gate import Gate
from gateway.core.grace import GracePlan, plan_grace
from gateway.core.identity import Dialect, Tags
from gateway.core.loops import LoopPlan, fingerprint_of, plan_loop
from gateway.core.mark import Mark
from gateway.core.match import Subject
from gateway.core.parallel_phases import ParallelPhases
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Mode, Policy, ReserveKind, StopLossPolicy, first_match
from gateway.core.prices import ModelPrice, ModelsInUse
from gateway.core.roadmap import NO_OVERRIDES, RoadmapTask
from gateway.core.shaping import AS_ASKED, Shape, shape_of, shapes_calls
from gateway.core.spend_limits import SpendLimit, limits_on
from gateway.core.unmetered import decide_unmetered
from gateway.core.unpriced import Unpriced, without_price
from gateway.core.untagged import without_task
from gateway.core.velocity import RatePlan, plan_rate
from gateway.ports import ReservePlan, TaskFacts

_MOST_PRICES = 1_024  # remembered look-ups: clients choose the names
_MOST_PHASES = 100_000
_NO_SIZE = Need(0, 0, 0, 0, 0, 0)
_NO_INPUT = InputEstimate(0, 0, 0)


class Plan(Struct, frozen=True):
    """What is going to be asked of the store, and by what rules the answer is read."""

    reserve: ReservePlan
    policy: StopLossPolicy
    mode: Mode
    price: ModelPrice | None
    ceiling: int
    estimate: InputEstimate
    unpriced: Unpriced = Unpriced.PASSES
    mark: Mark = Mark.PASSES
    shape: Shape = AS_ASKED


class Planner:
    """Step 3 under one `Rules` snapshot; limits and effects are computed once and kept."""

    def __init__(
        self,
        plane: DataPlane,
        rules: Rules,
        learned: LearnedOutput,
        learned_input: LearnedInput | None = None,
        in_use: ModelsInUse | None = None,
        switch: Switch | None = None,
    ) -> None:
        self.rules = rules
        self._in_use = in_use or ModelsInUse()
        self._plane = plane
        self._switch = switch or Switch()
        self._learned = learned
        self._learned_input = learned_input or LearnedInput()
        self._prices: dict[tuple[str, str], ModelPrice | None] = {}
        self._has_spend_limits = any(p.mode is not Mode.OFF for p in rules.policies.spend_limit)
        self._limits: dict[tuple[str, Complexity, ImportanceTier], TaskLimits] = {}
        self._shapes = shapes_calls(rules.policies)
        self._by_phase = rules.policies.depend_on_phase
        self._phases: dict[str, WorkPhase | None] = {}

    @property
    def enforces_tags(self) -> bool:
        """Return whether a tag that says nothing we know is refused."""
        return any(self.mode_of(policy) is Mode.ENFORCE for policy in self.rules.policies.stop_loss)

    def mode_of(self, policy: Policy) -> Mode:
        """Return a policy's mode; the kill switches turn enforcing into observing (RBK-2)."""
        switched_off = (
            self._switch.is_off
            or self._plane.enforcement_disabled
            or not self.rules.budgets.stop_loss.enabled
        )
        return Mode.OBSERVE if switched_off and policy.mode is Mode.ENFORCE else policy.mode

    def price_of(self, call: Call, model: str) -> ModelPrice | None:
        """Return what `model` costs at the call's upstream."""
        key = call.route.upstream, model
        if key not in self._prices:
            upstream = self._plane.upstreams.get(call.route.upstream)
            if len(self._prices) >= _MOST_PRICES:
                self._prices.clear()
            provider = upstream.provider if upstream else ""
            price = self._prices[key] = self.rules.prices.find(model, provider)
            if price is not None:
                self._in_use.add(provider, model)
        return self._prices[key]

    def decide_unmetered(self, call: Call, facts: TaskFacts | None) -> Decision:
        """Return the decision for a call that is not metered; no facts: what its tags say."""
        tags = call.tags
        complexity = facts.complexity if facts else tags.complexity or Complexity.MEDIUM
        importance = facts.importance if facts else tags.importance or ImportanceTier.MEDIUM
        policy = self.rules.policies.unmetered_route_for(complexity, importance, call)
        path = call.route.target.partition(b"?")[0]
        asks_model = bool(call.request.body) and call.route.dialect is not Dialect.UNMETERED
        return decide_unmetered(
            call.request.method, path, policy, self.mode_of(policy), asks_model=asks_model
        )

    def estimate(self, call: Call, asked: ModelRequest) -> InputEstimate:
        """Return the input's bounds from its length alone."""
        price = self.price_of(call, asked.model)
        estimate = estimate_input(
            asked.model,
            len(call.request.body),
            asked.media,
            price.max_input_tokens if price else None,
            is_open=asked.is_open,
        )
        return self._learned_input.corrected(asked.model, estimate)

    def plan(
        self,
        call: Call,
        asked: ModelRequest,
        facts: TaskFacts,
        estimate: InputEstimate,
        *,
        is_judged: bool = True,
    ) -> Plan:
        """Return the plan for a call of a task with these facts.

        A call that names no phase is judged by the policies of the one that its task is in, as far
        as is known here; the store tells where that is old. Raises BadCall (`tags_required`) for
        one that is to name a task, unless it runs already and is only to be charged.
        """
        as_said, call = call, self._in_current_phase(call)
        policy = self.rules.policies.stop_loss_for(facts.complexity, facts.importance, call)
        mode = Mode.OFF if call.is_untagged else self.mode_of(policy)
        price = self.price_of(call, asked.model)
        unpriced = Unpriced.PASSES
        if price is None:
            guard = self.rules.policies.unpriced_model_for(facts.complexity, facts.importance, call)
            unpriced, price = without_price(guard, self.mode_of(guard), asked.model)
        ceiling = output_ceiling(
            asked.output_limit, asked.choices, price.max_output_tokens if price else None
        )
        kind = policy.reserve if mode is Mode.ENFORCE else ReserveKind.EXPECTED
        phase = as_said.tags.phase
        expected = self._learned.expected(asked.model, as_said.phase_tag, ceiling)
        shape = self._shape_of(call, asked, facts) if self._shapes else AS_ASKED
        dearest = price.held_on(asked.pieces.terms) if price else None
        reserve = ReservePlan(
            call_id=call.call_id,
            tenant=self._plane.tenant,
            task=call.task,
            facts=facts,
            limits=None if call.is_untagged else self.limits_of(facts, call.task),
            phase=None if call.is_untagged else phase,
            enforce_from=policy.enforce_from,
            kind=kind,
            effects=effects_of(policy, mode),
            need=_worst_need(asked, estimate, ceiling, dearest, facts)
            if kind is ReserveKind.WORST_CASE
            else _likely_need(asked, estimate, expected, dearest, facts),
            about=about_call(as_said, asked, facts, policy, mode, self.rules),
            key_id=call.key.id if call.key is not None else "",
            key_version=call.key.version if call.key is not None else 0,
            spend=self.spend_limits_of(call, facts) if self._has_spend_limits else (),
            rate=self._rate_of(call, facts) if self.rules.policies.rate else None,
            session=call.tags.session,
            task_caps=call.key.task_caps if call.key is not None else None,
            loop=self._loop(call, asked, facts) if self.rules.policies.loop else None,
            grace=self._grace(call, asked, facts, ceiling, mode)
            if self.rules.policies.grace_call
            else None,
            soft_line=shape.soft_line,
            switch=self._switch.text,
            one_phase=policy.parallel_phases is ParallelPhases.REFUSE and mode is Mode.ENFORCE,
            judged_in=(call.tags.phase or "") if self._by_phase and not call.is_untagged else None,
        )
        is_marked = call.is_untagged and is_judged
        mark = self.mark_untagged(call, facts) if is_marked else Mark.PASSES
        return Plan(reserve, policy, mode, price, ceiling, estimate, unpriced, mark, shape)

    def note_phase(self, task: str, phase: WorkPhase | None) -> None:
        """Learn which phase a task is in, if that matters."""
        if self._by_phase:
            if len(self._phases) >= _MOST_PHASES:
                self._phases.clear()
            self._phases[task] = phase

    def _in_current_phase(self, call: Call) -> Call:
        """Return the call as if it named the phase that it counts in."""
        if not self._by_phase or call.tags.phase is not None or call.is_untagged:
            return call
        phase = self._phases.get(call.task)
        return structs.replace(call, tags=structs.replace(call.tags, phase=phase))

    def plan_gate(self, gate: Gate, gate_id: str, facts: TaskFacts) -> Plan:
        """Return the plan for a gate: all that a call in its phase is held to, for none to hold."""
        policies, tiers = self.rules.policies, (facts.complexity, facts.importance)
        policy = policies.stop_loss_for(*tiers, gate)
        mode = self.mode_of(policy)
        loop = first_match(policies.loop, *tiers, gate)
        reserve = ReservePlan(
            call_id=gate_id,
            tenant=self._plane.tenant,
            task=gate.task,
            facts=facts,
            limits=self.limits_of(facts, gate.task),
            phase=gate.phase,
            enforce_from=gate.starts_at(policy),
            kind=ReserveKind.NONE,
            effects=effects_of(policy, mode),
            need=_NO_SIZE,
            about=about_gate(gate, facts, policy, mode, self.rules),
            spend=self.spend_limits_of(gate, facts),
            rate=self._rate_of(gate, facts),
            loop=plan_loop(loop, self.mode_of(loop), "") if loop is not None else None,
            switch=self._switch.text,
        )
        return Plan(reserve, policy, mode, price=None, ceiling=0, estimate=_NO_INPUT)

    def _loop(self, call: Call, asked: ModelRequest, facts: TaskFacts) -> LoopPlan | None:
        """Return what is asked of the store about loops; else the body is not hashed."""
        policy = first_match(self.rules.policies.loop, facts.complexity, facts.importance, call)
        if policy is None or call.is_untagged or policy.mode is Mode.OFF:
            return None
        name = fingerprint_of(call.route.dialect.value, asked.model, call.request.body)
        return plan_loop(policy, self.mode_of(policy), name)

    def _grace(
        self, call: Call, asked: ModelRequest, facts: TaskFacts, ceiling: int, mode: Mode
    ) -> GracePlan | None:
        """Return what a call is offered behind a trip, where trips refuse."""
        policies = self.rules.policies.grace_call
        policy = first_match(policies, facts.complexity, facts.importance, call)
        if policy is None or mode is not Mode.ENFORCE:
            return None
        least = _least_output(asked, ceiling)
        mode, asks = self.mode_of(policy), call.tags.grace
        return plan_grace(policy, mode, asked=asks, ceiling=ceiling, least=least)

    def mark_untagged(self, call: Call, facts: TaskFacts) -> Mark:
        """Return how a call is marked that names no task. Raises BadCall (`tags_required`)."""
        policies = self.rules.policies.untagged_calls
        policy = first_match(policies, facts.complexity, facts.importance, call)
        return without_task(policy, self.mode_of(policy) if policy else Mode.OFF)

    def _shape_of(self, call: Call, asked: ModelRequest, facts: TaskFacts) -> Shape:
        tiers = facts.complexity, facts.importance
        shape = shape_of(self.rules.policies, tiers, call, asked, self.mode_of)
        if shape.soft_line is not None and not takes_model(call, shape.cheaper_model):
            shape = structs.replace(shape, soft_line=None, cheaper_model="")
        return shape

    def spend_limits_of(self, call: Subject, facts: TaskFacts) -> tuple[SpendLimit, ...]:
        """Return the spend limits that the call is held to, whether it names a task or not."""
        return limits_on(
            self.rules.policies.spend_limit,
            facts.complexity,
            facts.importance,
            call,
            self._plane.tenant,
            self.mode_of,
        )

    def _rate_of(self, call: Subject, facts: TaskFacts) -> RatePlan | None:
        """Return the velocity that the task is held to."""
        if call.tags.task is None:
            return None
        policy = self.rules.policies.rate_for(facts.complexity, facts.importance, call)
        return plan_rate(policy, self.mode_of(policy)) if policy is not None else None

    def new_task(self, task: str, tags: Tags) -> RoadmapTask:
        """Return what a task is created as: by the roadmap, else by the tags of its first call."""
        known = self.rules.roadmap.get(task)
        if known is not None:
            return known
        complexity = tags.complexity or Complexity.MEDIUM
        profile = TaskProfile(complexity, tags.importance or ImportanceTier.MEDIUM)
        return RoadmapTask(profile, tags.parent)

    def limits_of_new(self, task: str, tags: Tags) -> TaskLimits:
        """Return the limits that a task would be created with by a call with these tags."""
        profile = self.new_task(task, tags).profile
        return self.limits_of(TaskFacts(profile.complexity, profile.importance), task)

    def limits_of(self, facts: TaskFacts, task: str) -> TaskLimits:
        """Return the limits that a task of these facts is created with."""
        known = self.rules.roadmap.get(task)
        own = known is not None and known.profile.overrides != NO_OVERRIDES
        key = task if own else "", facts.complexity, facts.importance
        limits = self._limits.get(key)
        if limits is None:
            overrides = known.profile.overrides if known is not None else NO_OVERRIDES
            profile = TaskProfile(facts.complexity, facts.importance, overrides)
            limits = self._limits[key] = task_limits(self.rules.budgets, profile)
        return limits


def _held_before(price: ModelPrice | None, asked: ModelRequest, tokens: int, output: int) -> int:
    """Return nano-dollars of what is known before the call: input, and pieces asked for."""
    if price is None:
        return 0
    is_text = price.pieces is None or (asked.media is TEXT_ONLY and not asked.is_open)
    held = price.input_nano_usd(tokens, is_text=is_text)
    return (
        held if price.pieces is None else held + price.pieces_nano_usd(asked.pieces, tokens, output)
    )


def _likely_need(
    asked: ModelRequest,
    estimate: InputEstimate,
    output: int,
    price: ModelPrice | None,
    facts: TaskFacts,
) -> Need:
    """Return what is held where holds are not compared: what is likely."""
    tokens = -(-estimate.expected * facts.weights.input // 1000)
    return Need(
        input_low=tokens,
        input_high=tokens,
        input_nano_usd=_held_before(price, asked, estimate.expected, output),
        output=output,
        output_min=0,
        unit_nano_usd=price.at(estimate.expected).unit_nano_usd if price else 0,
        output_weight=facts.weights.output,
    )


def _least_output(asked: ModelRequest, ceiling: int) -> int:
    """Return the fewest output tokens worth admitting: all, where no clamp could be put in."""
    return least_output(ceiling, asked.least_limit) if asked.takes_limit else ceiling


def _worst_need(
    asked: ModelRequest,
    estimate: InputEstimate,
    ceiling: int,
    price: ModelPrice | None,
    facts: TaskFacts,
) -> Need:
    """Return what is held where nothing may go over: bounds."""
    w = facts.weights
    kinds = (w.input, w.cached_read, w.cache_write)
    return Need(
        input_low=estimate.low * min(kinds) // 1000,
        input_high=-(-estimate.high * max(kinds) // 1000),
        input_nano_usd=_held_before(price, asked, estimate.high, ceiling),
        output=ceiling,
        output_min=_least_output(asked, ceiling),
        unit_nano_usd=price.at(estimate.high).unit_nano_usd if price else 0,
        output_weight=w.output,
    )
