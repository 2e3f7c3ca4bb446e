"""Reading tasks: what stands in their hashes, as values. Nothing here changes anything.

An override may have run out since limits were last put into the hash: then they are computed anew
for the reader; the next call's reserve will put them in force (`store/limits.py`).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import msgspec

from gateway.core.acts import TaskState
from gateway.core.budget import Dimension, TaskLimits
from gateway.core.loops import CODE
from gateway.core.overrides import Override, limits_in_force
from gateway.core.phases import WorkPhase, elapsed_ms
from gateway.core.remediation import remediation_task
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys, facts_from_text, limit_fields
from gateway.store.limits import UnknownTask, decode_override, server_ms
from gateway.store.task_view import (
    CallsAndTokens,
    Execution,
    PhaseView,
    Place,
    Standing,
    Standings,
    StopLossState,
    StopState,
    TaskPage,
    TaskSummary,
    TaskView,
)

_BATCH = 100
_MOST_SCANNED = 1_000  # of one page: a filter that matches nothing must not read every task
_LIMIT_SUFFIXES = (".L", ".G", ".C", ".R", ".A")
_SUMMARY_FIELDS = (
    *("facts", "created", "last", "state", "state_ms", "phase", "expires", "inflight", "since"),
    *("trip", "trip_code", "trip_ms", "episode", "loop"),
    *(f"{dimension.value}.{letter}" for dimension in Dimension for letter in "LGCRSH"),
)
_RAW_KINDS = ("input", "cached_read", "cache_write", "output", "reasoning")

Fields = Mapping[str, str]


# One task -----------------------------------------------------------------------------------------


async def read_task(
    connection: StoreConnection, names: TenantKeys, task_id: str, now_ms: int | None = None
) -> TaskView:
    """Return a task as it stands now. Raises UnknownTask and StoreError."""
    raw, history, server_now = await asyncio.gather(
        connection.execute("HGETALL", names.task(task_id)),
        connection.execute("LRANGE", names.overrides(task_id), 0, -1),
        server_ms(connection),
    )
    fields: Fields = dict(zip(raw[::2], raw[1::2], strict=True))
    if "snapshot" not in fields:
        raise UnknownTask(task_id)
    now = server_now if now_ms is None else now_ms
    return view_of(task_id, fields, tuple(map(decode_override, history)), now)


def view_of(task_id: str, fields: Fields, overrides: tuple[Override, ...], now_ms: int) -> TaskView:
    """Return a task as its hash's fields and its overrides, oldest first, tell at `now_ms`."""
    snapshot = msgspec.json.decode(fields["snapshot"], type=TaskLimits)
    if _has_lapsed(fields, now_ms):
        fields = _with_limits(fields, snapshot, overrides, now_ms)
    return _view(task_id, fields, snapshot, overrides, now_ms)


def _has_lapsed(fields: Fields, now_ms: int) -> bool:
    return "expires" in fields and now_ms >= int(fields["expires"])


def _with_limits(
    fields: Fields, snapshot: TaskLimits, overrides: Iterable[Override], now_ms: int
) -> Fields:
    """Return the fields with the limits that hold at `now_ms`."""
    kept = {name: text for name, text in fields.items() if not name.endswith(_LIMIT_SUFFIXES)}
    limits = limit_fields(limits_in_force(snapshot, overrides, now_ms))
    return kept | dict(zip(limits[::2], limits[1::2], strict=True))


def _view(
    task_id: str,
    fields: Fields,
    snapshot: TaskLimits,
    overrides: tuple[Override, ...],
    now_ms: int,
) -> TaskView:
    absolute = {override.phase for override in overrides if override.in_force(now_ms)}
    executions = _executions(fields, now_ms)
    return TaskView(
        summary=_summary(task_id, fields, now_ms),
        now_ms=now_ms,
        snapshot=snapshot,
        overrides=overrides,
        phases={
            phase: PhaseView(
                budget,
                _on_basis(
                    _standings(fields, f"{phase.value}.", now_ms),
                    executions[phase],
                    snapshot.stop_loss.latency_basis,
                ),
                executions[phase],
                budget.overridden or phase in absolute,
            )
            for phase, budget in snapshot.budgets.items()
        },
        refused=_number(fields, "refused"),
        would_refuse=_calls_and_tokens(fields, "would_refuse"),
        expired=_calls_and_tokens(fields, "expired"),
        estimated=_calls_and_tokens(fields, "estimated"),
        parallel_phases=_number(fields, "parallel"),
        generation=_number(fields, "generation") or 1,
        raw_tokens={kind: _number(fields, f"raw.{kind}") for kind in _RAW_KINDS},
    )


def _summary(task_id: str, fields: Fields, now_ms: int) -> TaskSummary:
    totals = _standings(fields, "", now_ms)
    phase = fields.get("phase")
    return TaskSummary(
        id=task_id,
        facts=facts_from_text(fields["facts"]),
        created_ms=_number(fields, "created"),
        last_ms=_moment(fields, "last"),
        current_phase=WorkPhase(phase) if phase else None,
        open_calls=_number(fields, "inflight"),
        stop_loss=_stop_loss(task_id, fields, totals),
        totals=totals,
        state=TaskState(fields.get("state") or "open"),
        state_ms=_moment(fields, "state_ms"),
    )


def _standings(fields: Fields, prefix: str, now_ms: int) -> dict[Dimension, Standing]:
    standings = {}
    for dimension in Dimension:
        name = prefix + dimension.value
        used = _number(fields, f"{name}.S")
        if dimension is Dimension.LATENCY_MS:
            used += _open_interval(fields, prefix, now_ms)
        line = _moment(fields, f"{name}.C")
        standings[dimension] = Standing(
            limit=_moment(fields, f"{name}.L"),
            granted=_number(fields, f"{name}.G"),
            line=line,
            runaway_line=line if prefix else _moment(fields, f"{name}.R"),
            used=used,
            reserved=_number(fields, f"{name}.H"),
        )
    return standings


def _on_basis(
    standings: dict[Dimension, Standing], executions: Iterable[Execution], basis: str
) -> dict[Dimension, Standing]:
    """Return a phase's standings with latency by the basis of its snapshot (G-7).

    On the basis `wall`, executions with an explicit start count from that to their end.
    """
    latency = standings[Dimension.LATENCY_MS]
    if basis == "wall":
        more = sum(one.wall_ms - one.latency_ms for one in executions if one.wall_ms is not None)
        standings[Dimension.LATENCY_MS] = replace(latency, used=latency.used + more)
    return standings


def _open_interval(fields: Fields, prefix: str, now_ms: int) -> int:
    """Return how long there has been a call open without a break, in milliseconds."""
    if _number(fields, f"{prefix}inflight") <= 0:
        return 0
    return elapsed_ms(now_ms, _number(fields, f"{prefix}since"))


def _stop_loss(task_id: str, fields: Fields, totals: Standings) -> StopLossState:
    """Return the stop that holds, by the rule of `core.admission.Scope.tripped`."""
    episode = _number(fields, "episode")
    remediation = remediation_task(task_id, episode) if episode else ""
    state = fields.get("state")
    if state in ("killed", "blocked"):
        return StopLossState(
            StopState(state),
            f"task_{state}",
            since_ms=_moment(fields, "state_ms"),
            episode=episode,
            remediation=remediation,
        )
    dimension = Dimension(fields["trip"]) if fields.get("trip") else None
    standing = totals[dimension] if dimension else None
    if standing is None or standing.line is None or standing.used <= standing.line:
        if fields.get("loop"):
            return StopLossState(
                StopState.TRIPPED, CODE, None, _moment(fields, "loop"), episode, remediation
            )
        return StopLossState(StopState.OK, episode=episode, remediation=remediation)
    return StopLossState(
        StopState.TRIPPED,
        fields.get("trip_code", ""),
        dimension,
        _moment(fields, "trip_ms"),
        episode,
        remediation,
    )


def _executions(fields: Fields, now_ms: int) -> dict[WorkPhase, tuple[Execution, ...]]:
    """Return the executions by phase, in the order of their numbers."""
    numbers: dict[WorkPhase, set[int]] = {phase: set() for phase in WorkPhase}
    for name in fields:
        if name.startswith("x."):
            _, phase, number, _ = name.split(".")
            numbers[WorkPhase(phase)].add(int(number))
    return {
        phase: tuple(_execution(fields, phase, number, now_ms) for number in sorted(found))
        for phase, found in numbers.items()
    }


def _execution(fields: Fields, phase: WorkPhase, number: int, now_ms: int) -> Execution:
    prefix, record = f"{phase.value}.", f"x.{phase.value}.{number}."
    is_current = number == _number(fields, f"{prefix}exec")
    is_open = is_current and _number(fields, f"{prefix}inflight") > 0
    goes_on = f"{record}explicit" in fields and f"{record}wall_ms" not in fields
    waiting = _open_interval(fields, prefix, now_ms) if is_open else 0
    started_ms = _moment(fields, f"{record}started")
    return Execution(
        number=number,
        started_ms=started_ms,
        ended_ms=None if is_open or goes_on else _moment(fields, f"{record}ended"),
        tokens=_number(fields, f"{record}tokens"),
        latency_ms=_number(fields, f"{record}latency_ms") + waiting,
        wall_ms=_wall_ms(fields, record, started_ms, now_ms),
    )


def _wall_ms(fields: Fields, record: str, started_ms: int | None, now_ms: int) -> int | None:
    if f"{record}explicit" not in fields or started_ms is None:
        return None
    ended = _moment(fields, f"{record}wall_ms")
    going_on_ms = elapsed_ms(now_ms, started_ms + _number(fields, f"{record}idle_ms"))
    return going_on_ms if ended is None else ended


def _number(fields: Fields, name: str) -> int:
    return int(fields.get(name) or 0)


def _moment(fields: Fields, name: str) -> int | None:
    text = fields.get(name)
    return int(text) if text else None


def _calls_and_tokens(fields: Fields, kind: str) -> CallsAndTokens:
    return CallsAndTokens(_number(fields, f"{kind}.calls"), _number(fields, f"{kind}.tokens"))


# Many tasks ---------------------------------------------------------------------------------------


async def list_tasks(
    connection: StoreConnection,
    names: TenantKeys,
    limit: int,
    after: Place | None = None,
    wanted: Callable[[TaskSummary], bool] = lambda _: True,
) -> TaskPage:
    """Return up to `limit` tasks that are `wanted`, newest first, from behind `after` on.

    A page may be short, or empty, and still have a following one: a filter looks at some 1,000
    tasks a page. Raises StoreError.
    """
    found: list[TaskSummary] = []
    top: str | int = "+inf" if after is None else after.created_ms
    for offset in range(0, _MOST_SCANNED, _BATCH):
        places = await _places(connection, names, top, offset)
        # Tasks of the same millisecond, and those that came since, may lie before `after`.
        fresh = [place for place in places if after is None or place < after]
        for place, summary in zip(fresh, await _summaries(connection, names, fresh), strict=True):
            if summary is not None and wanted(summary):
                if len(found) == limit:
                    return TaskPage(tuple(found), after)
                found.append(summary)
            after = place
        if len(places) < _BATCH:
            return TaskPage(tuple(found), None)
    return TaskPage(tuple(found), after)


async def _places(
    connection: StoreConnection, names: TenantKeys, top: str | int, offset: int
) -> list[Place]:
    reply = await connection.execute(
        *("ZREVRANGEBYSCORE", names.tasks, top, "-inf", "WITHSCORES", "LIMIT", offset, _BATCH)
    )
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return [Place(int(float(score)), task_id) for task_id, score in pairs]


async def _summaries(
    connection: StoreConnection, names: TenantKeys, places: Iterable[Place]
) -> list[TaskSummary | None]:
    """Return the tasks at `places`, None for one whose hash is gone."""
    now_ms = await server_ms(connection)

    async def read(task_id: str) -> TaskSummary | None:
        texts = await connection.execute("HMGET", names.task(task_id), *_SUMMARY_FIELDS)
        pairs = zip(_SUMMARY_FIELDS, texts, strict=True)
        fields: Fields = {name: text for name, text in pairs if text is not None}
        if "facts" not in fields:
            return None
        if _has_lapsed(fields, now_ms):
            return (await read_task(connection, names, task_id, now_ms)).summary
        return _summary(task_id, fields, now_ms)

    return await asyncio.gather(*(read(place.task_id) for place in places))
