"""A policy of kind `override_bounds` as it stands in a file."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.core.override_bounds import OverrideBoundsPolicy
from gateway.core.policy_base import Mode
from gateway.findings import rule, suggestion
from gateway.rule_files.policy_document import PolicyDocument, read_mode

_ROLES = ("viewer", "operator", "admin")
_MOST_FACTOR = 10
_OF_CALLS = ("phase", "key", "team", "tenant", "model")
_BOUNDS = ("grant_percent", "phase_percent", "factor", "lasting_s")


def _factor(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise rule("must be a number", "write it like 1.5")
    factor = Decimal(str(value))
    if not 0 < factor <= _MOST_FACTOR:
        raise rule(f"must be above 0 and at most {_MOST_FACTOR}", "choose such a number")
    return factor


def _roles(value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like [admin]; [] binds all roles")
    for item in value:
        if item not in _ROLES:
            raise rule(f"{item!r} is not a role", suggestion(str(item), _ROLES))
    return frozenset(value)


_Percent = Annotated[int, Field(ge=0, le=10_000)]


class OverrideBoundsDocument(PolicyDocument):
    """How far overrides may go."""

    kind: Literal["override_bounds"]
    mode: Annotated[Mode, BeforeValidator(read_mode)] = Mode.ENFORCE
    grant_percent: _Percent | None = None
    phase_percent: _Percent | None = None
    factor: Annotated[Decimal | None, BeforeValidator(_factor)] = None
    lasting_s: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    exempt_roles: Annotated[frozenset[str], BeforeValidator(_roles)] = frozenset()

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if all(getattr(self, name) is None for name in _BOUNDS):
            raise rule("bounds nothing", f"state at least one of {', '.join(_BOUNDS)}")
        if any(getattr(self.match, name) for name in _OF_CALLS):
            raise rule(
                f"match by {', '.join(_OF_CALLS)} is of calls, and an override is none",
                "match by task, complexity or importance",
            )
        return self

    def policy(self) -> OverrideBoundsPolicy:
        """Return the policy as a value."""
        return OverrideBoundsPolicy(
            **self.common(),
            grant_percent=self.grant_percent,
            phase_percent=self.phase_percent,
            factor=self.factor,
            lasting_s=self.lasting_s,
            exempt_roles=self.exempt_roles,
        )
