"""A file of cases as it stands in `cases/` of a policy folder.

Amounts are in the units of policies: tokens, milliseconds, calls, US dollars.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.core.budget import NANO_USD_PER_USD, Amounts, Dimension
from gateway.core.notices import NoticeKind
from gateway.core.overrides import OverrideKind
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy_base import Mode
from gateway.findings import rule, suggestion
from gateway.rule_files.policy_document import Document, one_of, read_mode, read_word

_Count = Annotated[int, Field(ge=0, le=10**12)]
_Usd = Annotated[float, Field(ge=0, le=1_000_000)]
_Phase = Annotated[WorkPhase | None, one_of(WorkPhase)]
_Complexity = Annotated[Complexity, one_of(Complexity)]
_Importance = Annotated[ImportanceTier, one_of(ImportanceTier)]
_DIMENSIONS = {
    "tokens": Dimension.TOKENS,
    "latency_ms": Dimension.LATENCY_MS,
    "cost_usd": Dimension.NANO_USD,
    "calls": Dimension.CALLS,
}


def nano_usd(usd: float) -> int:
    """Return whole nano-dollars."""
    return int(Decimal(str(usd)) * NANO_USD_PER_USD)


def _dimension(value: object) -> object:
    if not isinstance(value, str) or value not in _DIMENSIONS:
        raise rule(f"{value!r} is not counted", suggestion(str(value), _DIMENSIONS))
    return _DIMENSIONS[value]


def _notice(value: object) -> object:
    return read_word(NoticeKind, str(value) if isinstance(value, int) else value)


def _notices(value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like [80, 100]")
    return tuple(_notice(item) for item in value)


class UsedDocument(Document):
    """Amounts that were used, or are asked for; what is left out is none."""

    tokens: _Count = 0
    latency_ms: _Count = 0
    cost_usd: _Usd = 0
    calls: _Count = 0

    def amounts(self) -> dict[Dimension, int]:
        """Return all amounts, money in nano-dollars."""
        return {
            Dimension.TOKENS: self.tokens,
            Dimension.LATENCY_MS: self.latency_ms,
            Dimension.NANO_USD: nano_usd(self.cost_usd),
            Dimension.CALLS: self.calls,
        }

    def stated(self) -> Amounts:
        """Return the amounts that are stated; the others are None."""
        keys = self.model_fields_set
        stated = {d: n for d, n in self.amounts().items() if _key_of(d) in keys}
        return Amounts(*(stated.get(dimension) for dimension in Dimension))


def _key_of(dimension: Dimension) -> str:
    return next(key for key, known in _DIMENSIONS.items() if known is dimension)


class BalanceDocument(Document):
    """One dimension of a task or phase before the call."""

    limit: _Count
    settled: _Count = 0
    held: _Count = 0
    granted: _Count = 0


class MoneyDocument(Document):
    """The same in US dollars."""

    limit: _Usd
    settled: _Usd = 0
    held: _Usd = 0
    granted: _Usd = 0


class BalancesDocument(Document):
    """What is limited of a task or phase; what is left out has no limit."""

    tokens: BalanceDocument | None = None
    latency_ms: BalanceDocument | None = None
    cost_usd: MoneyDocument | None = None
    calls: BalanceDocument | None = None

    def of(self, word: str) -> Amounts:
        """Return `limit`, `settled`, `held` or `granted` of what is limited."""
        money = None if self.cost_usd is None else nano_usd(getattr(self.cost_usd, word))
        tokens, latency_ms, calls = (
            None if balance is None else int(getattr(balance, word))
            for balance in (self.tokens, self.latency_ms, self.calls)
        )
        return Amounts(tokens, latency_ms, money, calls)


class WindowDocument(Document):
    """What stands in the window of a spend limit before the call."""

    settled: UsedDocument = UsedDocument()
    held: UsedDocument = UsedDocument()


class GivenDocument(Document):
    """How everything stands before the call. Nothing given: a task that begins with it.

    `windows` are by the name of the spend limit, `velocity` what was used in the rate's window.
    `repeats` are earlier calls like this one, `repeats_s_ago` seconds ago. `stream` is what was
    seen of an answer so far, `working` another phase that has calls in flight.
    """

    task: BalancesDocument | None = None
    parent: BalancesDocument | None = None
    phase: BalancesDocument | None = None
    state: Literal["open", "killed", "blocked"] = "open"
    tripped: Annotated[Dimension | None, BeforeValidator(_dimension)] = None
    windows: dict[str, WindowDocument] = Field(default_factory=dict)
    velocity: UsedDocument = UsedDocument()
    repeats: Annotated[int, Field(ge=0, le=1_000)] = 0
    repeats_s_ago: Annotated[int, Field(ge=0, le=86_400)] = 1
    loop_stopped: bool = False
    growing: Annotated[int, Field(ge=0, le=10_000)] = 0
    grace_used: bool = False
    working: _Phase = None
    switched_off: bool = False
    stream: UsedDocument | None = None


class KeyDocument(Document):
    """The gateway key that pays."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]{8}$")] = "a1b2c3d4"
    name: str = "key"
    team: str = ""
    tenant: str = "default"


_TaskId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
_HeaderText = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,256}$")]


class CallDocument(Document):
    """A call. `used_tokens` are what it came to, for the notices that follow."""

    task: _TaskId = "T-1"
    tagged: bool = True
    phase: _Phase = None
    complexity: _Complexity = Complexity.MEDIUM
    importance: _Importance = ImportanceTier.MEDIUM
    grace: bool = False
    key: KeyDocument | None = None
    model: Annotated[str, Field(min_length=1, max_length=256)] = "gpt-5"
    method: Literal["POST", "GET", "DELETE"] = "POST"
    path: Annotated[_HeaderText, Field(pattern="^/")] = "/v1/chat/completions"
    input_tokens: _Count = 100
    output_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    used_tokens: _Count = 0
    priced: bool = True
    input_usd_per_million: _Usd = 1
    output_usd_per_million: _Usd = 10


class OverrideDocument(Document):
    """An override that somebody asks for; `granted` are the grants that are in force."""

    kind: Annotated[OverrideKind, one_of(OverrideKind)]
    role: Literal["operator", "admin"] = "operator"
    task: _TaskId = "T-1"
    complexity: _Complexity = Complexity.MEDIUM
    importance: _Importance = ImportanceTier.MEDIUM
    phase: _Phase = None
    amounts: UsedDocument = UsedDocument()
    granted: UsedDocument = UsedDocument()
    factor: Annotated[float, Field(gt=0, le=10)] | None = None
    lasting_s: Annotated[int, Field(ge=1, le=10**9)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.kind is OverrideKind.PHASE_LIMIT) != (self.phase is not None):
            raise rule("a phase goes with kind phase_limit", "state both or neither")
        if (self.kind is OverrideKind.MULTIPLIER) != (self.factor is not None):
            raise rule("a factor goes with kind multiplier", "state both or neither")
        return self


class NoticeDocument(Document):
    """Something that happened and is told to the outside."""

    kind: Annotated[NoticeKind, BeforeValidator(_notice)]
    task: _TaskId = "T-1"
    tenant: str = "default"
    phase: _Phase = None
    complexity: _Complexity = Complexity.MEDIUM
    importance: _Importance = ImportanceTier.MEDIUM


class ExpectDocument(Document):
    """What is to come of it. Beside `decision` and `would_refuse` only what is stated counts."""

    decision: Literal["allow", "flag", "refuse"] | None = None
    would_refuse: bool = False
    code: str | None = None
    clamp: int | None = None
    model: str | None = None
    grace: Literal["offered", "short", "used", "admitted"] | None = None
    stream_stop: str | None = None
    notices: Annotated[tuple[NoticeKind, ...], BeforeValidator(_notices)] = ()
    posted_to: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.decision == "refuse" and not self.code:
            raise rule("a refusal has a code", "add `code: ...`, one of those in docs/policies.md")
        return self


class CaseDocument(Document):
    """One case: a call, an override or a notice. `change` are keys of the policy changed for it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    mode: Annotated[Mode | None, BeforeValidator(read_mode)] = None
    change: dict[str, Any] = Field(default_factory=dict)
    given: GivenDocument = GivenDocument()
    call: CallDocument | None = None
    override: OverrideDocument | None = None
    notice: NoticeDocument | None = None
    expect: ExpectDocument

    @model_validator(mode="after")
    def _is_of_one_thing(self) -> Self:
        things = (self.call, self.override, self.notice)
        if sum(thing is not None for thing in things) != 1:
            raise rule("a case is of one thing", "state one of call, override, notice")
        expect = self.expect.model_fields_set
        if self.notice is None and self.expect.decision is None:
            raise rule("what is expected lacks a decision", "add `decision: allow` to expect")
        wrong: set[str] = set()
        if self.notice is not None:
            wrong = expect - {"posted_to"}
        elif self.override is not None:
            wrong = expect - {"decision", "would_refuse", "code"}
        if wrong:
            raise rule(f"expects {', '.join(sorted(wrong))}, which it has not", "leave that out")
        return self


class CasesDocument(Document):
    """A file of cases."""

    cases: Annotated[list[CaseDocument], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [case.name for case in self.cases]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise rule(f"two cases are called {twice!r}", "rename one of them")
        return self
