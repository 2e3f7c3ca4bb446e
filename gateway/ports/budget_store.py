"""Budgets as the data path sees them: what is asked of the store, and what it may say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from gateway.core.admission import Effects, Need
from gateway.core.budget import EQUAL_WEIGHTS, TaskLimits, TokenWeights
from gateway.core.call_facts import NO_ABOUT, NO_OUTCOME, CallAbout, CallOutcome
from gateway.core.decision import Receipt
from gateway.core.enforcement import Switch
from gateway.core.errors import StoreError
from gateway.core.grace import GracePlan
from gateway.core.keys import Credential, GatewayKey, TaskCaps
from gateway.core.limit_standing import LimitStanding
from gateway.core.loops import LoopPlan
from gateway.core.model_downgrade import SoftLine
from gateway.core.own_budget import OwnBudget
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import ReserveKind
from gateway.core.sessions import Session
from gateway.core.spend_limits import SpendLimit
from gateway.core.usage import Usage, UsageSource
from gateway.core.velocity import RatePlan
from gateway.core.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What never changes about a task: tiers of the snapshot, ancestors, weights."""

    complexity: Complexity
    importance: ImportanceTier
    parents: tuple[str, ...] = ()
    weights: TokenWeights = EQUAL_WEIGHTS


class ReservePlan(Struct, frozen=True):
    """One reserve: for whom, what to compare, what to hold. `limits` is used by the first call.

    `about` is what the ledger is told of the call, if it is refused or whatever becomes of it.
    `key_id` names the gateway key that pays, '' if there is none, `key_version` the copy of it.
    `session` is the one that gave the task, or could have. `loop` and `grace` are plans of the
    policies of these kinds, where there are any. From `soft_line` on, nothing is held: the answer
    is SOFT.
    `spend` are the spend limits that hold for the call, `rate` the velocity of its task.
    `switch` is the copy of enforcement's switch that the plan was made by. `one_phase` refuses a
    call beside those of another phase. `judged_in` is the phase, '' for none, that the policies
    were chosen by where the call names none; None where they do not depend on it.
    """

    call_id: str
    tenant: str
    task: str
    facts: TaskFacts
    limits: TaskLimits | None
    phase: WorkPhase | None
    enforce_from: WorkPhase | None
    kind: ReserveKind
    effects: Effects
    need: Need
    about: CallAbout = NO_ABOUT
    key_id: str = ""
    key_version: int = 0
    session: Session | None = None
    task_caps: TaskCaps | None = None
    loop: LoopPlan | None = None
    grace: GracePlan | None = None
    soft_line: SoftLine | None = None
    spend: tuple[SpendLimit, ...] = ()
    rate: RatePlan | None = None
    switch: str = ""
    one_phase: bool = False
    judged_in: str | None = None


class Background(Vocabulary):
    """Whether an answer comes in the background: QUEUED is charged provisionally, DONE for good."""

    NO = "no"
    QUEUED = "queued"
    DONE = "done"


class Settlement(Struct, frozen=True):
    """What a call really used, with enough of its plan to charge it if its reserve never arrived.

    `tokens` are budget tokens (weighted); `usage` keeps the raw counts, `outcome` what the ledger
    is told.
    """

    plan: ReservePlan
    phase: WorkPhase | None
    tokens: int
    nano_usd: int
    usage: Usage
    source: UsageSource
    would_refuse: bool = False
    outcome: CallOutcome = NO_OUTCOME
    background: Background = Background.NO


class BackgroundCall(Struct, frozen=True):
    """A call whose answer is fetched later, by requests of their own: enough to settle it then.

    `outcome` is what the ledger was told of the call itself.
    """

    plan: ReservePlan
    phase: WorkPhase | None
    outcome: CallOutcome = NO_OUTCOME


class Settled(Struct, frozen=True, gc=False):
    """A settlement's effect: the task's totals before and after it.

    `left_out_ms` is a latency of more than a day, which was taken for none (EC8); 0 if there was no
    such thing.
    """

    duplicate: bool
    tokens_before: int = 0
    tokens_after: int = 0
    limit: int = 0
    left_out_ms: int = 0


class Stale(StoreError):
    """A plan was made by what is not so any more: nothing was done, and it is to be made anew."""


class StaleFacts(Stale):
    """A plan was made with other facts than the task's snapshot has; `facts_of` now has those."""

    def __init__(self) -> None:
        super().__init__("stale_facts", "the task's snapshot has other facts")


class StaleKey(Stale):
    """A plan was made with an old copy of its gateway key: it was changed or revoked meanwhile.

    `text` is the key as it is now, '' where the store does not tell.
    """

    def __init__(self, text: str) -> None:
        super().__init__("stale_key", "the gateway key has changed")
        self.text = text


class StaleSession(Stale):
    """A plan was made with an old copy of its session: it is bound to something else by now."""

    def __init__(self) -> None:
        super().__init__("stale_session", "the session's binding has changed")


class StaleSwitch(Stale):
    """A plan was made before enforcement was switched off or on; `switch_of` knows better now."""

    def __init__(self) -> None:
        super().__init__("stale_switch", "enforcement was switched meanwhile")


class StalePhase(Stale):
    """A plan was made by policies of another phase than the task is in: `phase`, if in any."""

    def __init__(self, phase: WorkPhase | None) -> None:
        super().__init__("stale_phase", "the task is in another phase")
        self.phase = phase


class TooManyTasks(StoreError):
    """A gateway key may begin no further task: the refusal's code, and what the agent reads."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__("too_many_tasks", message)
        self.code = code


class Keys(Protocol):
    """Who knows the gateway keys."""

    async def key_of(self, credential: Credential) -> GatewayKey:
        """Return the key that a credential proves. Raises BadCall (`invalid_key`), StoreError."""

    async def are_in_use(self) -> bool:
        """Return whether there are any, by a look that may be a few seconds old.

        Raises StoreError.
        """

    def forget(self, key_id: str) -> None:
        """Drop the copy of a key, which is old."""

    def learn(self, text: str) -> None:
        """Take a key as the store has it now (StaleKey) for the copy."""


class BudgetStore(Protocol):
    """Where balances live. Each method is one atomic act; all raise StoreError."""

    def facts_of(self, tenant: str, task: str) -> TaskFacts | None:
        """Return a task's facts as far as this process has seen them, without asking."""

    async def read_facts(self, tenant: str, task: str) -> TaskFacts | None:
        """Return a task's facts from the store; None if there is no such task."""

    async def begin(
        self, tenant: str, task: str, facts: TaskFacts, limits: TaskLimits
    ) -> TaskFacts:
        """Create a task that a child of it needs, if it is new; return what it is."""

    async def read_limits(
        self, tenant: str, limits: Sequence[SpendLimit]
    ) -> tuple[LimitStanding, ...]:
        """Return where spend limits stand in their windows of now. Raises StoreError."""

    async def read_budget(self, tenant: str, task: str) -> OwnBudget | None:
        """Return where a task stands; None if there is no such task."""

    def session_of(self, tenant: str, session_id: str) -> Session | None:
        """Return a session as far as this process has seen it, without asking."""

    async def read_session(self, tenant: str, session_id: str) -> Session:
        """Return a session from the store, with what it is bound to."""

    def switch_of(self, tenant: str) -> Switch:
        """Return this process's copy of a tenant's switch; always the same object."""

    async def read_switch(self, tenant: str) -> Switch:
        """Return the copy as the store has it now."""

    async def reserve(self, plan: ReservePlan) -> Receipt:
        """Create the task if it is new, compare every budget, hold the amount or say why not.

        Raises StaleFacts when the task's snapshot has other facts than the plan was made with,
        StalePhase when it is in another phase and that matters, StaleKey when its gateway key is
        another by now, StaleSession when its session's binding is, StaleSwitch when enforcement was
        switched.
        """

    async def settle(self, settlement: Settlement) -> Settled:
        """Replace the hold by what was used; idempotent by call id."""

    async def release(self, plan: ReservePlan, outcome: CallOutcome = NO_OUTCOME) -> None:
        """Give the hold back: nothing was sent to the provider."""

    async def remember_response(
        self, tenant: str, response_id: str, background: BackgroundCall
    ) -> None:
        """Keep, for a day, which call an answer in the background belongs to."""

    async def recall_response(self, tenant: str, response_id: str) -> BackgroundCall | None:
        """Return the call that an answer in the background belongs to; None if it is not known."""

    async def heartbeat(
        self, tenant: str, open_calls: Sequence[tuple[ReservePlan, int, int]]
    ) -> dict[str, str]:
        """Renew leases of (plan, tokens seen, nano-dollars seen); return those that are over.

        By call id, the code with which a call of the same task would be refused by now
        (`core.shaping.stop_code`).
        """
