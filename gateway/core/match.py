"""Which calls a policy is for, beyond the tiers of their task: by phase, key, team, task, model.

Names are patterns (`gpt-*`, `ci-?`); letter case counts, as at providers. A call that lacks what is
asked for, such as one without a gateway key where a key is named, is not meant.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from gateway.core.phases import WorkPhase

DEFAULT_TENANT = "default"


class Payer(Protocol):
    """A gateway key as policies look at it (`core/keys.py`)."""

    @property
    def id(self) -> str:
        """Return the key's public id."""

    @property
    def name(self) -> str:
        """Return the key's name."""

    @property
    def team(self) -> str:
        """Return the team that it belongs to, '' if none."""


class Said(Protocol):
    """What a call says of itself (`core/identity.py`)."""

    @property
    def task(self) -> str | None:
        """Return the task that it names."""

    @property
    def phase(self) -> WorkPhase | None:
        """Return the phase that it counts in, as far as that is known."""


class Subject(Protocol):
    """A call as policies look at it. `models` are all the names that its model goes by."""

    @property
    def key(self) -> Payer | None:
        """Return the gateway key that pays."""

    @property
    def tags(self) -> Said:
        """Return what the call says of itself."""

    @property
    def models(self) -> tuple[str | None, ...]:
        """Return the model's names; empty or None where the call names none."""

    @property
    def tenant(self) -> str:
        """Return the tenant that the call is made for: its gateway's."""


@dataclass(frozen=True, slots=True)
class ActedOn:
    """A task that somebody acts on, as a `Subject`: without a call no phase, key and model."""

    task: str
    phase: None = None
    key: None = None
    models: tuple[str | None, ...] = ()
    tenant: str = DEFAULT_TENANT

    @property
    def tags(self) -> "ActedOn":
        """Return what is said of it: itself."""
        return self


@dataclass(frozen=True, slots=True)
class CallMatch:
    """Which calls are meant; an empty set is all. `phase` is the one that the call counts in.

    `key` holds patterns for a gateway key's id or name.
    """

    phase: frozenset[WorkPhase] = frozenset()
    key: frozenset[str] = frozenset()
    team: frozenset[str] = frozenset()
    tenant: frozenset[str] = frozenset()
    task: frozenset[str] = frozenset()
    model: frozenset[str] = frozenset()

    def matches(self, call: Subject) -> bool:
        """Return whether `call` is meant."""
        key, tags = call.key, call.tags
        return (
            (not self.phase or tags.phase in self.phase)
            and (not self.task or _fits(self.task, [tags.task]))
            and (not self.model or _fits(self.model, call.models))
            and (not self.key or _fits(self.key, [key.id, key.name] if key else ()))
            and (not self.team or _fits(self.team, [key.team] if key else ()))
            and (not self.tenant or _fits(self.tenant, [call.tenant]))
        )


def _fits(patterns: frozenset[str], names: Iterable[str | None]) -> bool:
    """Return whether one of the names that are there fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for name in names if name for pattern in patterns)
