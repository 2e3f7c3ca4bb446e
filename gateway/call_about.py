"""What the ledger is told of a call before it is decided, and of a gate that stays shut."""

from gateway.call import Call, path_label
from gateway.core.call_facts import MOST_TEXT, CallAbout
from gateway.core.configuration import Rules
from gateway.core.dialects.wire_format import ModelRequest
from gateway.core.gate import Gate
from gateway.core.identity import Tags
from gateway.core.policy import Mode, StopLossPolicy
from gateway.ports import TaskFacts


def about_call(
    call: Call,
    asked: ModelRequest,
    facts: TaskFacts,
    policy: StopLossPolicy,
    mode: Mode,
    rules: Rules,
) -> CallAbout:
    """Return what is known of a call of a task with these facts, under a policy in its mode."""
    route = call.route
    return CallAbout(
        model=(call.model_asked or asked.model)[:MOST_TEXT],
        upstream=route.upstream,
        dialect=route.dialect.value,
        method=call.request.method.decode("latin-1"),
        path=path_label(route.target),
        stream=asked.stream,
        complexity=facts.complexity.value,
        importance=facts.importance.value,
        tags=_said(call.tags),
        key=call.key.id if call.key is not None else "",
        policy=policy.name,
        mode=mode.value,
        policy_hash=rules.policies.policy_hash,
        config_hash=rules.budgets.config_hash,
    )


def about_gate(
    gate: Gate, facts: TaskFacts, policy: StopLossPolicy, mode: Mode, rules: Rules
) -> CallAbout:
    """Return the same of a gate, which asks for no model."""
    return CallAbout(
        method="POST",
        path="gate",
        complexity=facts.complexity.value,
        importance=facts.importance.value,
        key=gate.key.id if gate.key is not None else "",
        policy=policy.name,
        mode=mode.value,
        policy_hash=rules.policies.policy_hash,
        config_hash=rules.budgets.config_hash,
    )


def _said(tags: Tags) -> dict[str, str]:
    """Return the tags that a call named and that were understood, but for the task."""
    said = {}
    if tags.phase is not None:
        said["phase"] = tags.phase.value
    if tags.complexity is not None:
        said["complexity"] = tags.complexity.value
    if tags.importance is not None:
        said["importance"] = tags.importance.value
    if tags.parent is not None:
        said["parent"] = tags.parent
    return said
