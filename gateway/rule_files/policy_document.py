"""What policies of every kind look like in files; the kinds themselves are in `policy_kinds.py`.

A kind whose document is long has a module of its own, which builds on this one.
"""

from abc import abstractmethod
from enum import Enum
from typing import Annotated, TypedDict, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.core.match import CallMatch
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy_base import Match, Mode, Policy
from gateway.findings import rule, suggestion

_ANY_CALL = CallMatch()

Word = TypeVar("Word", bound=Enum)


def read_word(vocabulary: type[Word], value: object) -> object:
    """Return the member that a word names, in any letter case."""
    known = {str(member.value): member for member in vocabulary}
    folded = {word.lower(): member for word, member in known.items()}
    if not isinstance(value, str):
        return value
    if value.strip().lower() not in folded:
        raise rule(f"{value!r} is not allowed", suggestion(value, known))
    return folded[value.strip().lower()]


def read_mode(value: object) -> object:
    """Return a mode; a boolean False is what YAML 1.1 makes of `off`."""
    return read_word(Mode, "off" if value is False else value)


def _tiers(vocabulary: type[Word], value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like [low, medium]; [] matches all")
    return frozenset(read_word(vocabulary, item) for item in value)


def _patterns(value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like ['gpt-5*', o3]; [] matches all")
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise rule(f"{item!r} is not a name", "write it like 'gpt-5*'; * is any rest")
    return frozenset(value)


def one_of(vocabulary: type[Word]) -> BeforeValidator:
    """Return what reads one word of a vocabulary."""
    return BeforeValidator(lambda value: read_word(vocabulary, value))


def set_of(vocabulary: type[Word]) -> BeforeValidator:
    """Return what reads a list of its words."""
    return BeforeValidator(lambda value: _tiers(vocabulary, value))


class Document(BaseModel):
    """Root of what stands in policy files: nothing unknown, nothing converted."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True)


class MatchDocument(Document):
    """Which tasks and calls a policy is for. Names are patterns; `core/match.py` says of what."""

    complexity: Annotated[frozenset[Complexity], set_of(Complexity)] = frozenset()
    importance: Annotated[frozenset[ImportanceTier], set_of(ImportanceTier)] = frozenset()
    phase: Annotated[frozenset[WorkPhase], set_of(WorkPhase)] = frozenset()
    key: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    team: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    tenant: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    task: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()
    model: Annotated[frozenset[str], BeforeValidator(_patterns)] = frozenset()

    def match(self) -> Match:
        """Return the match as a value."""
        call = CallMatch(self.phase, self.key, self.team, self.tenant, self.task, self.model)
        return Match(self.complexity, self.importance, () if call == _ANY_CALL else (call,))


class CommonKeys(TypedDict):
    """What a policy of any kind is made with."""

    name: str
    mode: Mode
    match: Match


class PolicyDocument(Document):
    """What policies of every kind state. A kind says whether `mode` may be left out.

    Left out it is that of the task's stop-loss policy.
    """

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    mode: Annotated[Mode | None, BeforeValidator(read_mode)] = None
    match: MatchDocument = MatchDocument()

    @abstractmethod
    def policy(self) -> Policy:
        """Return the policy as a value; a mode that was left out is to be set."""

    def common(self) -> CommonKeys:
        """Return what every kind states, to make a policy with."""
        return {
            "name": self.name,
            "mode": self.mode or Mode.OBSERVE,
            "match": self.match.match(),
        }
