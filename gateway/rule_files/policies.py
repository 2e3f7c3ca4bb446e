"""The `*.yaml` files of a policy folder to a `PolicySet`, in file-name order.

A kind of policy is code, an instance is data: one document a file. Folders inside (rollout
presets, cases) are not read.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import msgspec
from pydantic import BaseModel, ValidationError

from gateway.core.match import CallMatch
from gateway.core.phases import Complexity, ImportanceTier
from gateway.core.policy import Mode, Policy, PolicySet, StopLossPolicy, in_stop_loss_mode
from gateway.findings import Finding, Findings, Severity, as_error, errors_among, explain
from gateway.rule_files.policy_kinds import ALL_APPLY, POLICY_KINDS
from gateway.yaml_source import line_of, plain, read_mapping

_STOP_LOSS = "stop_loss"
_AS_THEY_ARE: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class _Read:
    """A policy with where it stands; `has_mode` is False if it acts in the stop-loss' mode."""

    path: Path
    kind: str
    policy: Policy
    has_mode: bool


def default_policies(mode: Mode | None = None) -> PolicySet:
    """Return the built-in policies: observe everything, unless `mode` replaces that."""
    return _policy_set([], mode)


def load_policies(folder: Path, mode: Mode | None = None) -> PolicySet:
    """Return the folder's policies, each in `mode` if that is given.

    A kind of which there is none has its built-in policy. Raises InvalidConfigError.
    """
    policies, findings = read_policies(folder, mode)
    if policies is None:
        raise as_error(findings)
    return policies


def read_policies(
    folder: Path, mode: Mode | None = None, changes: Mapping[str, Mapping[str, Any]] = _AS_THEY_ARE
) -> tuple[PolicySet | None, list[Finding]]:
    """Return the folder's policies, None if any has a fault, and all findings.

    `changes` are keys that a file, by its name, is taken to say instead: a case tries them.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        missing = _doubt(folder, "does not exist, the built-in policy observes", "correct its name")
        return default_policies(mode), [missing]
    except OSError as error:
        findings = Findings(str(folder))
        findings.error("", None, f"cannot be read: {error.strerror}", "name a readable folder")
        return None, findings.items
    found, read = [], []
    for name in names:
        policy, findings_here = _read_policy(folder / name, changes.get(name, {}))
        found += findings_here
        read += [policy] if policy else []
    found += _duplicates(read)
    if errors_among(found):
        return None, found
    if not any(one.kind == _STOP_LOSS for one in read):
        found.append(
            _doubt(folder, "has no stop_loss, the built-in policy observes", "add a policy")
        )
    return _policy_set(read, mode), found + _never_reached(read)


def _read_policy(path: Path, changes: Mapping[str, Any]) -> tuple[_Read | None, list[Finding]]:
    findings = Findings(str(path))
    if path.suffix == ".yml":
        findings.warning("", None, "is not read", f"name it {path.stem}.yaml")
    if path.suffix != ".yaml" or path.is_dir():
        return None, findings.items
    root = read_mapping(path, findings)
    if root is None:
        return None, findings.items
    values = {**plain(root), **changes}
    kind = str(values.get("kind"))
    model = POLICY_KINDS.get(kind)
    if model is None:
        problem = f"unknown kind {values['kind']!r}" if "kind" in values else "a kind is required"
        findings.error(
            "kind", line_of(root, ("kind",)), problem, f"choose one of: {', '.join(POLICY_KINDS)}"
        )
        return None, findings.items
    try:
        document = model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            key = fault["loc"]
            problem, remedy = explain(fault, keys_beside(model, key))
            findings.error(".".join(map(str, key)), line_of(root, key), problem, remedy)
        return None, findings.items
    return _Read(path, kind, document.policy(), document.mode is not None), findings.items


def keys_beside(document: type[BaseModel], key: Sequence[int | str]) -> list[str]:
    """Return the keys that are known where `key` stands: in the document or inside of it."""
    fields = document.model_fields
    for part in key[:-1]:
        if isinstance(part, int):
            continue
        field = fields.get(part)
        models = [kind for kind in _kinds_of(field.annotation) if _is_model(kind)] if field else []
        fields = models[0].model_fields if models else {}
    return list(fields)


def _kinds_of(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _duplicates(read: list[_Read]) -> list[Finding]:
    first: dict[str, Path] = {}
    found = []
    for one in read:
        name = one.policy.name
        if name in first:
            problem = f"{name!r} is the name of {first[name]} too"
            found.append(
                Finding(Severity.ERROR, str(one.path), "name", None, problem, "rename one of them")
            )
        first.setdefault(name, one.path)
    return found


def _never_reached(read: list[_Read]) -> list[Finding]:
    """Return a warning for each policy all of whose tasks are taken by its kind's before it.

    Only the same calls, or all calls, are taken to cover those that a policy names.
    """
    taken: dict[str, set[tuple[Complexity, ImportanceTier, tuple[CallMatch, ...]]]] = {
        kind: set() for kind in POLICY_KINDS
    }
    found = []
    for one in read:
        match = one.policy.match
        tiers = [
            (complexity, importance)
            for complexity, importance in product(Complexity, ImportanceTier)
            if replace(match, calls=()).matches(complexity, importance)
        ]
        if one.kind in ALL_APPLY:
            continue
        before = taken[one.kind]
        if all((*both, ()) in before or (*both, match.calls) in before for both in tiers):
            problem = f"is never reached: {one.kind} files before it match all of its tasks"
            found.append(_doubt(one.path, problem, "reorder"))
        before.update((*both, match.calls) for both in tiers)
    return found


def _doubt(path: Path, problem: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, str(path), "", None, problem, remedy)


def _policy_set(read: list[_Read], mode: Mode | None) -> PolicySet:
    """Return the policies in the modes in force, with the hash of what they say (12 hex digits).

    A policy without a mode, as all built-in ones but the stop-loss, acts in that of the stop-loss.
    """
    in_file = {kind: [one for one in read if one.kind == kind] for kind in POLICY_KINDS}
    stop_loss = [
        replace(policy, mode=mode or policy.mode)
        for policy in [one.policy for one in in_file[_STOP_LOSS]] or PolicySet().stop_loss
        if isinstance(policy, StopLossPolicy)
    ]

    def in_force(kind: str) -> Iterator[Policy]:
        built_in = [(policy, False) for policy in getattr(PolicySet(), kind)]
        for policy, has_mode in [(one.policy, one.has_mode) for one in in_file[kind]] or built_in:
            if mode or has_mode:
                yield replace(policy, mode=mode or policy.mode)
            else:
                yield from in_stop_loss_mode(policy, stop_loss)

    kinds: dict[str, Any] = {kind: tuple(in_force(kind)) for kind in POLICY_KINDS}
    kinds[_STOP_LOSS] = tuple(stop_loss)
    text = msgspec.json.encode(kinds, order="sorted")
    return PolicySet(policy_hash=hashlib.sha256(text).hexdigest()[:12], **kinds)
