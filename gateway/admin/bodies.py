"""The shapes of the answers about tasks, as models: what is sent, and what OpenAPI tells of it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["within", "warning", "exceeded"]
State = Literal["open", "completed", "reopened", "killed", "blocked"]
Moment = Annotated[str, Field(description="ISO 8601 with milliseconds, UTC.")]
Usd = Annotated[str, Field(description="US dollars as an exact decimal.")]


class Body(BaseModel):
    """Root of all answers."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


class Total(Body):
    """One dimension. Without a limit, all that follows from one is null.

    `line` is what `used` may not exceed, grants included; `runaway_line` the same in every phase.
    `percent` is of limit + granted, and so is `remaining`, which leaves out what is held, too.
    """

    limit: int | None
    granted: int
    line: int | None
    runaway_line: int | None
    used: int
    reserved: int
    remaining: int | None
    percent: int | None
    status: Status | None
    pressure: int | None = Field(description="Highest notice level reached: 0, 50, 80, 90 or 100.")


class NanoUsd(Body):
    """The amounts of a cost as integers, nano-dollars."""

    limit: int | None
    granted: int
    line: int | None
    runaway_line: int | None
    used: int
    reserved: int
    remaining: int | None


class CostTotal(Body):
    """Like `Total`, in dollars; `nano_usd` has the same amounts as integers."""

    limit: Usd | None
    granted: Usd
    line: Usd | None
    runaway_line: Usd | None
    used: Usd
    reserved: Usd
    remaining: Usd | None
    percent: int | None
    status: Status | None
    pressure: int | None
    nano_usd: NanoUsd


class Totals(Body):
    """All dimensions; latency has the open interval in it."""

    tokens: Total
    latency_ms: Total
    cost_usd: CostTotal
    calls: Total


class StopLossBody(Body):
    """The task's stop. `episode` counts trips; `remediation` is named after the latest."""

    state: Literal["ok", "tripped", "killed", "blocked"]
    code: str | None
    dimension: str | None
    since: Moment | None
    since_ms: int | None
    episode: int
    remediation: str | None


class TaskSummaryBody(Body):
    """A task in a list. `status` is the worst of tokens, cost and calls.

    `state` is where it is in its life: a completed task that is called again is `reopened`.
    """

    id: str
    complexity: str
    importance: str
    parents: list[str]
    created: Moment
    created_ms: int
    last_call: Moment | None
    current_phase: str | None
    open_calls: int
    state: State
    state_since: Moment | None
    status: Status
    stop_loss: StopLossBody
    totals: Totals


class TaskPageBody(Body):
    """Tasks, newest first. A page may be short and still have a next one."""

    tasks: list[TaskSummaryBody]
    next_cursor: str | None


class BaseBody(Body):
    """What a phase gets before any factor."""

    tokens: int
    latency_ms: int
    cost_usd: Usd | None


class FactorsBody(Body):
    """What the phase's limits were computed from: base x factors, rounded up.

    `override_multiplier` is the multiplier in force by override. `absolute` tells that an override
    set limits of this phase, which nothing multiplies.
    """

    base: BaseBody
    complexity: str
    importance: str
    phase_weight: str
    budget_multiplier: str
    override_multiplier: str | None
    absolute: bool


class ExecutionBody(Body):
    """One time that the phase was worked on; `ended` is null while calls are open in it.

    `latency_ms` is the time with a call open, `wall_ms` that from an explicit start to the end,
    with what calls took before that start.
    """

    number: int
    started: Moment | None
    ended: Moment | None
    tokens: int
    latency_ms: int
    wall_ms: int | None


class PhaseBody(Totals):
    """A phase; `status` is the worst of all its dimensions, at the per-phase threshold."""

    phase: str
    not_started: bool
    status: Status
    factors: FactorsBody
    executions: list[ExecutionBody]


class CallsAndTokensBody(Body):
    """A number of calls and the budget tokens they were charged."""

    calls: int
    tokens: int


class EstimatedBody(CallsAndTokensBody):
    """Charged by estimate; `share` of the task's tokens, 0 to 1."""

    share: float


class CountersBody(Body):
    """What happened to the task's calls."""

    refused: int
    parallel_phases: int = Field(
        description="How often a phase began while another had calls open."
    )
    would_refuse: CallsAndTokensBody
    expired: CallsAndTokensBody
    estimated: EstimatedBody


class RawTokensBody(Body):
    """Token counts as reported, unweighted; `input` without what was read or written in caches."""

    input: int
    cached_read: int
    cache_write: int
    output: int
    reasoning: int


class AmountsBody(Body):
    """What an override grants, or sets as limits."""

    tokens: int | None
    latency_ms: int | None
    cost_usd: Usd | None
    nano_usd: int | None


class OverrideBody(Body):
    """An override, as it was made. It has an effect while `in_force`."""

    kind: Literal["grant", "phase_limit", "multiplier", "resume", "generation"]
    amounts: AmountsBody
    phase: str | None
    factor: str | None
    approver: str
    reason: str
    created: Moment
    created_ms: int
    expires: Moment | None
    expires_ms: int | None
    in_force: bool


class TaskBody(TaskSummaryBody):
    """A task with everything that is known of it, at the store's time `as_of`."""

    as_of: Moment
    generation: int = Field(description="1 at first; each reopening begins another.")
    config_hash: str
    counters: CountersBody
    raw_tokens: RawTokensBody
    phases: list[PhaseBody]
    overrides: list[OverrideBody]


class OverrideAppliedBody(Body):
    """An override that is in force; `warnings` say what may not be as intended.

    `task` is null if the store did not answer any more once the override was in force.
    """

    override: OverrideBody
    warnings: list[str]
    task: TaskBody | None


class TaskChangedBody(Body):
    """The state that the task is in now, and whether this request changed anything.

    `task` is null if the store did not answer any more once that was done. `warnings` say what may
    not be as intended: a policy that only observes would have kept it from being done.
    """

    state: State
    changed: bool
    warnings: list[str]
    task: TaskBody | None


class CallChargeBody(Body):
    """What a call is charged; without a known price the money is null."""

    tokens: int
    cost_usd: Usd | None
    nano_usd: int | None


class CallCorrectedBody(Body):
    """The call's charge before and after, and whether this request changed anything.

    `task` is null for a call without one, and if the store did not answer any more.
    """

    call: str
    changed: bool
    before: CallChargeBody
    after: CallChargeBody
    task: TaskBody | None


class PhaseChangedBody(Body):
    """The phase's current execution, 0 if it has none, and whether this request changed anything.

    `parallel_to` is another phase that has calls open while this one starts.
    """

    phase: str
    execution: int
    changed: bool
    parallel_to: str | None
    task: TaskBody | None


class BreachBody(Body):
    """A line that a total has crossed: `used` is above `line`; `allowed` is limit + granted.

    Of `cost_usd` the amounts are nano-dollars.
    """

    scope: Literal["task", "parent", "phase", "key", "team", "tenant", "model", "rate"]
    name: str
    dimension: str
    used: int
    allowed: int
    line: int


class GateBody(Body):
    """The task may leave the phase. `would_refuse`: it may because the policy only observes.

    The hashes are those of the policies and budgets by which that was decided.
    """

    task: str
    phase: str
    to: str | None
    decision: Literal["allow", "flag"]
    would_refuse: bool
    policy: str
    mode: Literal["off", "observe", "enforce"]
    policy_hash: str
    config_hash: str
    breaches: list[BreachBody]


class TaskRegisteredBody(Body):
    """What became of a registration; `warnings` say what may not be as intended.

    `same`: it was registered before with the same content. `unblocked`: it was blocked for a
    malformed registration. `task` is null if the store did not answer any more.
    """

    outcome: Literal["created", "same", "unblocked"]
    warnings: list[str]
    task: TaskBody | None


class TaskPhasesBody(Body):
    """A task's phases, all nine in order."""

    task: str
    as_of: Moment
    phases: list[PhaseBody]


class TaskOverridesBody(Body):
    """A task's overrides, oldest first."""

    task: str
    as_of: Moment
    overrides: list[OverrideBody]


class ErrorDetail(BaseModel):
    """What went wrong. `field` names the place in the request; others depend on the code."""

    model_config = ConfigDict(defer_build=True, extra="allow")

    code: str
    message: str
    field: str | None = None


class ErrorBody(Body):
    """The shape of every error."""

    error: ErrorDetail
