"""The `*.yaml` files of a policy folder to a `PolicySet`, in file-name order.

A kind of policy is code, an instance is data: one document a file. Folders inside (rollout
presets, cases) are not read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import (
    Effect,
    Match,
    Mode,
    PolicySet,
    ReserveKind,
    StopLossPolicy,
    StoreFailure,
)
from gateway.findings import (
    Finding,
    Findings,
    Severity,
    as_error,
    errors_among,
    explain,
    rule,
    suggestion,
)
from gateway.yaml_source import line_of, plain, read_mapping

_ANY_PHASE = "any"

Word = TypeVar("Word", bound=Enum)


def _word(vocabulary: type[Word], value: object) -> object:
    """Return the member that a word names, in any letter case."""
    known = {str(member.value): member for member in vocabulary}
    folded = {word.lower(): member for word, member in known.items()}
    if not isinstance(value, str):
        return value
    if value.strip().lower() not in folded:
        raise rule(f"{value!r} is not allowed", suggestion(value, known))
    return folded[value.strip().lower()]


def _mode(value: object) -> object:
    """Return a mode; a boolean False is what YAML 1.1 makes of `off`."""
    return _word(Mode, "off" if value is False else value)


def _enforce_from(value: object) -> object:
    """Return a phase, or None for `any`; nothing at all is not the same as `any`."""
    if isinstance(value, str) and value.strip().lower() == _ANY_PHASE:
        return None
    if value is None:
        raise rule("is empty", f"name a phase, or {_ANY_PHASE}")
    return _word(WorkPhase, value)


def _tiers(vocabulary: type[Word], value: object) -> object:
    if not isinstance(value, list):
        raise rule("must be a list", "write it like [low, medium]; [] matches all")
    return frozenset(_word(vocabulary, item) for item in value)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _one_of(vocabulary: type[Word]) -> BeforeValidator:
    return BeforeValidator(lambda value: _word(vocabulary, value))


def _set_of(vocabulary: type[Word]) -> BeforeValidator:
    return BeforeValidator(lambda value: _tiers(vocabulary, value))


class _MatchDocument(_Document):
    complexity: Annotated[frozenset[Complexity], _set_of(Complexity)] = frozenset()
    importance: Annotated[frozenset[ImportanceTier], _set_of(ImportanceTier)] = frozenset()


class StopLossDocument(_Document):
    """A policy of kind `stop_loss` as it stands in a file."""

    kind: Literal["stop_loss"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    mode: Annotated[Mode, BeforeValidator(_mode)]
    match: _MatchDocument = _MatchDocument()
    effect: Annotated[Effect, _one_of(Effect)] = Effect.REFUSE
    enforce_from: Annotated[WorkPhase | None, BeforeValidator(_enforce_from)] = WorkPhase.VERIFY
    reserve: Annotated[ReserveKind, _one_of(ReserveKind)] = ReserveKind.EXPECTED
    latency_action: Annotated[Effect, _one_of(Effect)] = Effect.FLAG
    phase_action: Annotated[Effect, _one_of(Effect)] = Effect.FLAG
    store_failure: Annotated[StoreFailure, _one_of(StoreFailure)] = StoreFailure.OPEN
    allowance_tokens: Annotated[int, Field(gt=0, le=10**12, strict=True)] = 50_000

    def policy(self) -> StopLossPolicy:
        """Return the policy as a value."""
        return StopLossPolicy(
            name=self.name,
            mode=self.mode,
            match=Match(self.match.complexity, self.match.importance),
            effect=self.effect,
            enforce_from=self.enforce_from,
            reserve=self.reserve,
            latency_action=self.latency_action,
            phase_action=self.phase_action,
            store_failure=self.store_failure,
            allowance_tokens=self.allowance_tokens,
        )


POLICY_KINDS: Mapping[str, type[StopLossDocument]] = {"stop_loss": StopLossDocument}
"""The union of documents, discriminated on `kind`. Few kinds will do; a new one is a release."""


def default_policies(mode: Mode | None = None) -> PolicySet:
    """Return the built-in policy: observe everything, unless `mode` replaces that."""
    return _policy_set([StopLossPolicy()], mode)


def load_policies(folder: Path, mode: Mode | None = None) -> PolicySet:
    """Return the folder's policies, each in `mode` if that is given.

    No folder, or none with a policy in it, gives the built-in one. Raises InvalidConfigError.
    """
    policies, findings = read_policies(folder, mode)
    if policies is None:
        raise as_error(findings)
    return policies


def read_policies(folder: Path, mode: Mode | None = None) -> tuple[PolicySet | None, list[Finding]]:
    """Return the folder's policies, None if any has a fault, and all findings."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        names = []
    except OSError as error:
        findings = Findings(str(folder))
        findings.error("", None, f"cannot be read: {error.strerror}", "name a readable folder")
        return None, findings.items
    found, read = [], []
    for name in names:
        policy, findings_here = _read_policy(folder / name)
        found += findings_here
        read += [(folder / name, policy)] if policy else []
    found += _duplicates(read)
    if errors_among(found):
        return None, found
    if not read:
        found.append(_doubt(folder, "has no *.yaml, the built-in policy observes", "add a policy"))
        return default_policies(mode), found
    return _policy_set([policy for _, policy in read], mode), found + _never_reached(read)


def _read_policy(path: Path) -> tuple[StopLossPolicy | None, list[Finding]]:
    findings = Findings(str(path))
    if path.suffix == ".yml":
        findings.warning("", None, "is not read", f"name it {path.stem}.yaml")
    if path.suffix != ".yaml" or path.is_dir():
        return None, findings.items
    root = read_mapping(path, findings)
    if root is None:
        return None, findings.items
    values = plain(root)
    document = POLICY_KINDS.get(str(values.get("kind")))
    if document is None:
        problem = f"unknown kind {values['kind']!r}" if "kind" in values else "a kind is required"
        findings.error(
            "kind", line_of(root, ("kind",)), problem, f"choose one of: {', '.join(POLICY_KINDS)}"
        )
        return None, findings.items
    try:
        return document.model_validate(values).policy(), findings.items
    except ValidationError as error:
        for fault in error.errors():
            key = fault["loc"]
            model = _MatchDocument if key[0] == "match" and len(key) > 1 else document
            problem, remedy = explain(fault, list(model.model_fields))
            findings.error(".".join(map(str, key)), line_of(root, key), problem, remedy)
    return None, findings.items


def _duplicates(read: list[tuple[Path, StopLossPolicy]]) -> list[Finding]:
    first: dict[str, Path] = {}
    found = []
    for path, policy in read:
        if policy.name in first:
            problem = f"{policy.name!r} is the name of {first[policy.name]} too"
            found.append(
                Finding(Severity.ERROR, str(path), "name", None, problem, "rename one of them")
            )
        first.setdefault(policy.name, path)
    return found


def _never_reached(read: list[tuple[Path, StopLossPolicy]]) -> list[Finding]:
    """Return a warning for each policy all of whose tasks are taken by the ones before it."""
    taken: set[tuple[Complexity, ImportanceTier]] = set()
    found = []
    for path, policy in read:
        meant = {
            tiers for tiers in product(Complexity, ImportanceTier) if policy.match.matches(*tiers)
        }
        if meant <= taken:
            found.append(
                _doubt(path, "is never reached: files before it match all of its tasks", "reorder")
            )
        taken |= meant
    return found


def _doubt(path: Path, problem: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, str(path), "", None, problem, remedy)


def _policy_set(policies: list[StopLossPolicy], mode: Mode | None) -> PolicySet:
    """Return the policies in the modes in force, with the hash of what they say (12 hex digits)."""
    in_force = tuple(replace(policy, mode=mode or policy.mode) for policy in policies)
    text = json.dumps([_canonical(asdict(p)) for p in in_force], sort_keys=True)
    return PolicySet(in_force, hashlib.sha256(text.encode()).hexdigest()[:12])


def _canonical(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(member.value for member in value)
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    return value
