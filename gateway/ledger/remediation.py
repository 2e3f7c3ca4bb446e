"""What a remediation task says (SL-6), from what the ledger knows when the stop-loss trips."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from gateway.core.amount_text import format_amount
from gateway.core.budget import Dimension, percent
from gateway.core.notices import Notice
from gateway.core.phases import WorkPhase
from gateway.core.remediation import remediation_task
from gateway.ledger.schema import TASKS
from gateway.ledger.sums import task_sums

_ALL_NUMBERS = 1 << 62
_WORST_PHASES = 3
_SHARE_DIGITS = 4
_NOUN = {
    Dimension.TOKENS: "token",
    Dimension.LATENCY_MS: "latency",
    Dimension.NANO_USD: "cost",
    Dimension.CALLS: "call",
}

Document = dict[str, Any]


def remediation_document(connection: Connection, trip: Notice, evidence_dir: str) -> Document:
    """Return the task that mends a breach; the calls before the trip are in the ledger already."""
    facts, task = trip.facts, trip.task
    sums = task_sums(connection, trip.tenant, [task], _ALL_NUMBERS).get(task, {})
    dimension = Dimension(str(facts["dimension"]))
    used, limit = int(str(facts["used"])), int(str(facts["limit"]))
    spent = f"{format_amount(used, dimension)} / {format_amount(limit, dimension)}"
    return {
        "id": remediation_task(task, int(str(facts["episode"]))),
        "title": f"Task {task} exceeded {_NOUN[dimension]} budget: {spent} "
        f"({percent(used, limit)}%)",
        "type": "remediation",
        "status": "open",
        "budget_breach": {
            "task": task,
            "episode": facts["episode"],
            "stop_reason": facts["code"],
            "dimension": dimension.value,
            "used": used,
            "limit": limit,
            "line": facts["line"],
            "percent": percent(used, limit),
            "phase": facts["phase"],
            "tripped_at_ms": trip.at_ms,
            "worst_phases": _worst_phases(sums, dimension),
            "estimated_share": _estimated_share(sums),
            "config_hash": _config_hash(connection, trip),
            "report": f"{evidence_dir}/{task}/verify/budget_report.md",
            "unblock": f"POST /admin/v1/tasks/{task}/overrides: a grant, a phase_limit, a "
            "multiplier or a resume, with approver and reason",
        },
    }


def _worst_phases(sums: Mapping[str, int], dimension: Dimension) -> list[Document]:
    """Return the phases that used most of what ran out, the worst first."""
    used = {phase.value: sums.get(f"{phase.value}.{dimension.value}.S", 0) for phase in WorkPhase}
    worst = sorted(used.items(), key=lambda item: -item[1])[:_WORST_PHASES]
    return [{"phase": phase, "used": amount} for phase, amount in worst if amount > 0]


def _estimated_share(sums: Mapping[str, int]) -> float:
    """Return how much of the tokens nobody counted."""
    tokens = sums.get("tokens.S", 0)
    if tokens <= 0:
        return 0.0
    return min(1.0, round(sums.get("estimated.tokens", 0) / tokens, _SHARE_DIGITS))


def _config_hash(connection: Connection, trip: Notice) -> str | None:
    found: str | None = connection.scalar(
        select(TASKS.c.config_hash).where(TASKS.c.tenant == trip.tenant, TASKS.c.task == trip.task)
    )
    return found
