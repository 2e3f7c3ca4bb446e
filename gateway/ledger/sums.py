"""The ledger's sums, under the names that the same figures have in the store's hashes.

So a task's totals can be compared, and given back, field by field (`store/keys.py`). What retention
has deleted is in `carried`, under these names as well.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, select

from gateway.core.phases import WorkPhase
from gateway.ledger.schema import ANCESTRY, CALLS, CARRIED, INHERITED_LATENCY

Sums = Mapping[str, int]

_PHASES = "|".join(phase.value for phase in WorkPhase)
_SUMMED = re.compile(
    rf"(?:(?:{_PHASES})\.)?(?:tokens|nano_usd|calls|latency_ms)\.S"
    rf"|x\.(?:{_PHASES})\.\d+\.(?:tokens|latency_ms)"
    r"|raw\.\w+|(?:estimated|would_refuse|expired)\.(?:calls|tokens)|refused"
)
_CHARGED = CALLS.c.state.in_(("settled", "expired"))
_SETTLED = CALLS.c.state == "settled"
_REFUSED = and_(CALLS.c.state == "refused", CALLS.c.code != "budget_in_flight")
_ESTIMATED = and_(_SETTLED, CALLS.c.usage_source == "estimated")
_WOULD_REFUSE = and_(_SETTLED, CALLS.c.would_refuse)
_CACHED = CALLS.c.cached_read_tokens + CALLS.c.cache_write_tokens
_PLAIN_INPUT = case((CALLS.c.input_tokens > _CACHED, CALLS.c.input_tokens - _CACHED), else_=0)


def is_summed(field: str) -> bool:
    """Return whether a field of a task's hash is a sum over calls."""
    return _SUMMED.fullmatch(field) is not None


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _sum(
    what: ColumnElement[int], condition: ColumnElement[bool] | None = None
) -> ColumnElement[int]:
    counted = what if condition is None else case((condition, what), else_=0)
    return func.coalesce(func.sum(counted), 0)


# Of each group of calls. The first four are those of every scope.
TOTALS: Mapping[str, ColumnElement[int]] = {
    "tokens.S": _sum(CALLS.c.tokens),
    "nano_usd.S": _sum(CALLS.c.nano_usd),
    "calls.S": _count(_CHARGED),
    "latency_ms.S": _sum(CALLS.c.task_latency_ms),
}
_OF_TASK: Mapping[str, ColumnElement[int]] = {
    "raw.input": _sum(_PLAIN_INPUT, _SETTLED),
    "raw.cached_read": _sum(CALLS.c.cached_read_tokens, _SETTLED),
    "raw.cache_write": _sum(CALLS.c.cache_write_tokens, _SETTLED),
    "raw.output": _sum(CALLS.c.output_tokens, _SETTLED),
    "raw.reasoning": _sum(CALLS.c.reasoning_tokens, _SETTLED),
    "estimated.calls": _count(_ESTIMATED),
    "estimated.tokens": _sum(CALLS.c.tokens, _ESTIMATED),
    "would_refuse.calls": _count(_WOULD_REFUSE),
    "would_refuse.tokens": _sum(CALLS.c.tokens, _WOULD_REFUSE),
    "expired.calls": _count(CALLS.c.expired_tokens.is_not(None)),
    "expired.tokens": _sum(CALLS.c.expired_tokens),
    "refused": _count(_REFUSED),
}
_PHASE_LATENCY = _sum(CALLS.c.phase_latency_ms)


def task_sums(
    connection: Connection, tenant: str, tasks: Sequence[str], up_to: int
) -> Mapping[str, Mapping[str, int]]:
    """Return the sums of some tasks over what has a sequence number up to `up_to`."""
    chosen = and_(CALLS.c.tenant == tenant, CALLS.c.task.in_(tasks), CALLS.c.number <= up_to)
    sums = own_sums(connection, chosen)
    _add_descendants(connection, tenant, tasks, up_to, sums)
    for task, field, amount in connection.execute(
        select(CARRIED.c.task, CARRIED.c.field, CARRIED.c.amount).where(
            CARRIED.c.tenant == tenant, CARRIED.c.task.in_(tasks)
        )
    ):
        sums[task][field] += amount
    return sums


def own_sums(
    connection: Connection, chosen: ColumnElement[bool]
) -> defaultdict[str, defaultdict[str, int]]:
    """Return the sums over some calls by their own task: the task's fields, phases, executions."""
    sums: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    names = (*TOTALS, *_OF_TASK)
    for row in connection.execute(_own(chosen)):
        task, phase, execution, phase_latency, *amounts = row
        of = sums[task]
        for name, amount in zip(names, amounts, strict=True):
            of[name] += int(amount)
        if phase is not None:
            _add_phase(
                of,
                phase,
                execution,
                dict(zip(names, map(int, amounts), strict=True)),
                int(phase_latency),
            )
    return sums


def _own(chosen: ColumnElement[bool]) -> Select[Any]:
    group = (CALLS.c.task, CALLS.c.phase, CALLS.c.execution)
    amounts = (*TOTALS.values(), *_OF_TASK.values())
    return select(*group, _PHASE_LATENCY, *amounts).where(chosen).group_by(*group)


def _add_phase(
    of: defaultdict[str, int], phase: str, execution: int, amounts: Sums, latency_ms: int
) -> None:
    for name in ("tokens.S", "nano_usd.S", "calls.S"):
        of[f"{phase}.{name}"] += amounts[name]
    of[f"{phase}.latency_ms.S"] += latency_ms
    of[f"x.{phase}.{execution}.tokens"] += amounts["tokens.S"]
    of[f"x.{phase}.{execution}.latency_ms"] += latency_ms


def _add_descendants(
    connection: Connection,
    tenant: str,
    tasks: Sequence[str],
    up_to: int,
    sums: defaultdict[str, defaultdict[str, int]],
) -> None:
    """Add what children and their children were charged: it counts for their ancestors too."""
    tasks = list(
        connection.scalars(
            select(ANCESTRY.c.ancestor)
            .where(ANCESTRY.c.tenant == tenant, ANCESTRY.c.ancestor.in_(tasks))
            .distinct()
        )
    )
    if not tasks:
        return
    below = and_(
        ANCESTRY.c.tenant == tenant,
        ANCESTRY.c.ancestor.in_(tasks),
        CALLS.c.tenant == tenant,
        CALLS.c.task == ANCESTRY.c.task,
        CALLS.c.number <= up_to,
    )
    for ancestor, name, amount in inherited_sums(connection, below):
        sums[ancestor][name] += amount
    latency = INHERITED_LATENCY.c
    for ancestor, latency_ms in connection.execute(
        select(latency.ancestor, _sum(latency.latency_ms))
        .where(latency.tenant == tenant, latency.ancestor.in_(tasks), latency.number <= up_to)
        .group_by(latency.ancestor)
    ):
        sums[ancestor]["latency_ms.S"] += int(latency_ms)


def inherited_sums(
    connection: Connection, below: ColumnElement[bool]
) -> Iterator[tuple[str, str, int]]:
    """Yield (ancestor, field, amount) over calls that `below` joins with their task's ancestry."""
    names = ("tokens.S", "nano_usd.S", "calls.S")
    totals = [TOTALS[name] for name in names]
    statement = select(ANCESTRY.c.ancestor, *totals).where(below).group_by(ANCESTRY.c.ancestor)
    for ancestor, *amounts in cast(Iterable[tuple[Any, ...]], connection.execute(statement)):
        yield from zip(repeat(ancestor), names, map(int, amounts))
