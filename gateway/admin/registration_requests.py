"""What `POST /admin/v1/tasks` takes, and the error that names task and field."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from gateway.admin.answers import ApiError
from gateway.admin.override_requests import Approver, Cost, Factor, Phase, Reason, Units
from gateway.core.budget import NANO_USD_PER_USD, Amounts, TaskBudgetOverrides, TaskProfile
from gateway.core.identity import ID_PATTERN
from gateway.core.phases import Complexity, ImportanceTier, Term, allowed_terms, parse_term
from gateway.core.registration import scope_class
from gateway.findings import explain, rule, suggestion

_MOST_COUNT = 1_000_000_000
_BUDGET_FIELDS = ("budget_overrides", "budget_multiplier")


def _id(value: str) -> str:
    if not ID_PATTERN.fullmatch(value):
        raise rule(
            "cannot be a task's id",
            "use a letter or digit, then up to 127 letters, digits, dots, underscores, hyphens",
        )
    return value


def _tier(vocabulary: type[Term]) -> Callable[[object], object]:
    """Return a reader of tiers, which are taken in any letter case."""

    def parse(value: object) -> object:
        if not isinstance(value, str):
            raise rule("must be a word", f"choose one of {allowed_terms(vocabulary)}")
        term = parse_term(vocabulary, value)
        if term is None:
            raise rule("is not known", suggestion(value, [str(each.value) for each in vocabulary]))
        return term

    return parse


def _tier_schema(vocabulary: type[Term]) -> WithJsonSchema:
    words = [str(each.value) for each in vocabulary]
    return WithJsonSchema({"type": "string", "enum": words, "description": "In any letter case."})


def _each_phase_once(value: object) -> object:
    if isinstance(value, Mapping):
        names = [name.strip().casefold() for name in value if isinstance(name, str)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise rule(f"has {twice!r} twice", "name each phase once, in any letter case")
    return value


ComplexityTier = Annotated[Complexity, BeforeValidator(_tier(Complexity)), _tier_schema(Complexity)]
Importance = Annotated[
    ImportanceTier, BeforeValidator(_tier(ImportanceTier)), _tier_schema(ImportanceTier)
]
TaskId = Annotated[
    str,
    AfterValidator(_id),
    WithJsonSchema({"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"}),
]


class _Strict(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)


class PhaseOverride(_Strict):
    """Absolute limits of one phase; what is left out is calculated."""

    tokens: Units | None = None
    latency_ms: Units | None = None
    cost_usd: Cost | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> "PhaseOverride":
        if self.tokens is None and self.latency_ms is None and self.cost_usd is None:
            raise rule("has no limit", "give tokens, latency_ms or cost_usd")
        return self


class RegisterRequest(_Strict):
    """A task before its first call. Left out, complexity is by size if that is given."""

    id: TaskId
    complexity: ComplexityTier | None = None
    importance: Importance = ImportanceTier.MEDIUM
    justification: Reason | None = None
    parent: TaskId | None = None
    budget_overrides: Annotated[dict[Phase, PhaseOverride], BeforeValidator(_each_phase_once)] = (
        Field(default_factory=dict)
    )
    budget_multiplier: Factor = Decimal(1)
    files: Annotated[int, Field(ge=0, le=_MOST_COUNT)] | None = None
    changed_lines: Annotated[int, Field(ge=0, le=_MOST_COUNT)] | None = None
    registered_by: Approver = "admin"

    @property
    def profile(self) -> TaskProfile:
        """Return what the limits are computed from."""
        complexity = self.complexity
        if complexity is None and (self.files is not None or self.changed_lines is not None):
            complexity = scope_class(self.files or 0, self.changed_lines or 0)
        return TaskProfile(
            complexity or Complexity.MEDIUM,
            self.importance,
            TaskBudgetOverrides(
                {phase: _amounts(limits) for phase, limits in self.budget_overrides.items()},
                self.budget_multiplier,
            ),
        )

    @property
    def digest(self) -> str:
        """Return what tells whether a task is registered with the same content again."""
        content = self.model_dump_json(exclude={"registered_by"})
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Malformed:
    """A task whose own budget cannot be understood: it is to be blocked (EC17)."""

    id: str
    profile: TaskProfile
    error: ApiError


def parse_registration(body: object) -> RegisterRequest | Malformed:
    """Return what is to be registered, or blocked.

    Raises ApiError (`invalid_task`) for what is wrong elsewhere: then nothing is to be done.
    """
    try:
        asked = RegisterRequest.model_validate(body)
    except ValidationError as error:
        found = [dict(one) for one in error.errors(include_url=False)]
        return _malformed(body, found)
    if asked.importance is ImportanceTier.CRITICAL and asked.justification is None:
        raise _invalid(asked.id, "justification", "is required for importance critical", "say why")
    return asked


def _malformed(body: object, errors: list[dict[str, Any]]) -> Malformed:
    """Return the task to block, if only its budget is wrong. Raises ApiError otherwise."""
    task = body.get("id") if isinstance(body, dict) else None
    elsewhere = [one for one in errors if not one["loc"] or one["loc"][0] not in _BUDGET_FIELDS]
    error = _worded(task, (elsewhere or errors)[0])
    if elsewhere or not isinstance(body, dict):
        raise error
    sound = {name: value for name, value in body.items() if name not in _BUDGET_FIELDS}
    asked = parse_registration(sound)  # may raise: a justification is missing
    assert isinstance(asked, RegisterRequest)  # noqa: S101 -- what was wrong is left out
    return Malformed(asked.id, asked.profile, error)


def _worded(task: object, error: dict[str, Any]) -> ApiError:
    place = [str(part) for part in error["loc"] if part != "[key]"]
    known = list(PhaseOverride.model_fields if len(place) > 1 else RegisterRequest.model_fields)
    if isinstance(error["input"], Decimal):
        error["input"] = float(error["input"])  # for the message only: it reads as it was written
    if error["type"] == "extra_forbidden":
        problem, remedy = "is not a field here", f"remove it; {suggestion(place[-1], known)}"
    elif not place:
        problem, remedy = "must be a JSON object", "give at least an id"
    else:
        problem, remedy = explain(error, known)  # type: ignore[arg-type]
    return _invalid(task, ".".join(place) or "the body", problem, remedy)


def _invalid(task: object, field: str, problem: str, remedy: str) -> ApiError:
    named = task if isinstance(task, str) and ID_PATTERN.fullmatch(task) else None
    whose = f"task {named}, " if named else ""
    message = f"{whose}{field}: {problem}. Remedy: {remedy}."
    return ApiError(422, "invalid_task", message, field=field, task=named)


def invalid_parent(task: str, problem: str, remedy: str) -> ApiError:
    """Return the error for a parent that cannot be one."""
    return _invalid(task, "parent", problem, remedy)


def _amounts(limits: PhaseOverride) -> Amounts:
    cost = limits.cost_usd
    nano_usd = None if cost is None else int(cost * NANO_USD_PER_USD)
    return Amounts(limits.tokens, limits.latency_ms, nano_usd)
