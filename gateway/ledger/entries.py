"""Entries of a tenant's stream as rows for the tables of `schema`. No I/O.

The format is told in `store/lua/shared.lua`. What cannot be understood is an outcome too: it is
kept as it is, for a person, and never holds up what comes after it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.core.acts import Act
from gateway.core.call_facts import CallAbout, CallOutcome
from gateway.core.notices import Notice
from gateway.core.overrides import Override
from gateway.core.phases import WorkPhase
from gateway.ledger.call_columns import NO_CALL, balances, number_of, outcome_columns
from gateway.ledger.notices import (
    lowered_notices,
    notice_of_act,
    notice_of_override,
    notice_of_trip,
    notice_of_velocity,
    pressure_notices,
)
from gateway.ledger.record_rows import record_row
from gateway.store.keys import UNTAGGED_FACTS, facts_from_text

Row = dict[str, Any]
Entry = tuple[str, Mapping[str, str]]

_IN_FLIGHT_STATUS = 429
_PHASES = frozenset(phase.value for phase in WorkPhase)
_read_about = msgspec.json.Decoder(CallAbout).decode
_read_outcome = msgspec.json.Decoder(CallOutcome).decode
_read_override = msgspec.json.Decoder(Override).decode
_read_act = msgspec.json.Decoder(Act).decode
_read_strings = msgspec.json.Decoder(list[str]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Rows:
    """Rows by table, in the order in which they happened."""

    calls: list[Row] = field(default_factory=list)
    corrections: list[Row] = field(default_factory=list)
    inherited_latency: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    ancestry: list[Row] = field(default_factory=list)
    phase_executions: list[Row] = field(default_factory=list)
    breaches: list[Row] = field(default_factory=list)
    overrides: list[Row] = field(default_factory=list)
    audit: list[Row] = field(default_factory=list)
    records: list[Row] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)
    # Not rows yet: what of them is told outside is the outbox' to say.
    notices: list[Notice] = field(default_factory=list)


class EntryReader:
    """Reads the entries of one tenant. `refusal_status` is the HTTP status of a refusal."""

    def __init__(self, tenant: str, refusal_status: int) -> None:
        self._tenant = tenant
        self._refusal_status = refusal_status

    def rows_of(self, entries: Iterable[Entry]) -> Rows:
        """Return what to insert for some entries."""
        rows = Rows()
        for entry_id, fields in entries:
            if not fields:  # taken by the stream's cap while it waited; counted as lost there
                continue
            try:
                self._read(fields, rows)
            except (ValueError, KeyError, IndexError, msgspec.MsgspecError) as error:
                rows.rejected.append(self.rejected(entry_id, fields, repr(error)))
        return rows

    def rejected(self, entry_id: str, fields: Mapping[str, str], reason: str) -> Row:
        """Return the row for an entry that cannot be kept otherwise."""
        text = msgspec.json.encode(
            {name: _storable(value) for name, value in fields.items()}
        ).decode()
        return {"tenant": self._tenant, "entry_id": entry_id, "reason": reason, "entry": text}

    def _read(self, fields: Mapping[str, str], rows: Rows) -> None:
        kind, now_ms, key, *words = fields["e"].split(" ")
        task, at_ms = _task_of(key), int(now_ms)
        if kind in ("settled", "expired", "released"):
            self._call(rows, kind, at_ms, task, words, fields)
        elif kind == "refused":
            self._refusal(rows, at_ms, task, words, fields)
        elif kind == "task":
            self._task(rows, at_ms, task, words, fields["d"])
        elif kind == "execution":
            self._execution(rows, at_ms, task, words)
        elif kind == "override":
            self._override(rows, at_ms, task, int(words[0]), fields["d"])
        else:
            self._read_act(rows, kind, at_ms, task, words, fields)

    def _read_act(
        self,
        rows: Rows,
        kind: str,
        at_ms: int,
        subject: str,
        words: Sequence[str],
        fields: Mapping[str, str],
    ) -> None:
        if kind == "act":
            self._act(rows, at_ms, subject, words, fields["d"])
        elif kind == "lowered":
            rows.notices += lowered_notices(self._tenant, subject, at_ms, fields["p"])
        elif kind == "corrected":
            self._correction(rows, at_ms, subject, words, fields)
        elif kind == "record":
            self._record(rows, at_ms, subject, int(words[0]), fields)
        else:
            raise ValueError(f"unknown kind {kind!r}")

    # Calls --------------------------------------------------------------------------------------

    def _call(
        self,
        rows: Rows,
        state: str,
        at_ms: int,
        task: str,
        words: Sequence[str],
        fields: Mapping[str, str],
    ) -> None:
        """Read a call that was let through."""
        about = _read_about(_storable(fields["a"]))
        outcome = _read_outcome(_storable(fields.get("o", "[]")))
        row = self._call_row(state, at_ms, task, words, about)
        row |= outcome_columns(outcome) | _more_columns(fields)
        if state == "settled" and not outcome.priced:
            row["nano_usd"] = None
        if state == "expired":
            row["expired_tokens"] = row["tokens"]
        row["started_ms"] = at_ms - (row["latency_ms"] or 0)
        self._add_latency(rows, row, words[-1])
        rows.calls.append(row)
        rows.notices += pressure_notices(self._tenant, task, at_ms, fields.get("p", ""))
        for crossed in outcome.breaches:
            rows.breaches.append(
                self._breach(row, crossed.scope, crossed.name, crossed.dimension)
                | {"used": crossed.used, "allowed": crossed.allowed, "line": crossed.line}
            )

    def _call_row(
        self, state: str, at_ms: int, task: str, words: Sequence[str], about: CallAbout
    ) -> Row:
        call_id, number, reserved, phase, execution, tokens, nano_usd, held, held_nano, _ = words
        return NO_CALL | {
            "tenant": self._tenant,
            "call_id": call_id,
            "state": state,
            "number": int(number),
            "reserve_number": int(reserved) or None,
            "task": task,
            "key": about.key or None,
            "phase": None if phase == "-" else phase,
            "execution": int(execution) or None,
            "started_ms": at_ms,
            "at_ms": at_ms,
            "complexity": about.complexity or None,
            "importance": about.importance or None,
            "tags": _encode(about.tags).decode() if about.tags else None,
            "model": about.model or None,
            "upstream": about.upstream or None,
            "dialect": about.dialect or None,
            "method": about.method or None,
            "path": about.path or None,
            "stream": about.stream,
            "policy": about.policy or None,
            "mode": about.mode or None,
            "policy_hash": about.policy_hash or None,
            "config_hash": about.config_hash or None,
            "tokens": int(tokens),
            "nano_usd": int(nano_usd),
            "held_tokens": int(held),
            "held_nano_usd": int(held_nano),
        }

    def _add_latency(self, rows: Rows, row: Row, waits: str) -> None:
        """Note the latency that a call's end added: task, ancestors, phase."""
        task, *others = map(int, waits.split(","))
        row["task_latency_ms"] = task
        if row["phase"] is not None and others:
            row["phase_latency_ms"] = others.pop()
        for depth, latency_ms in enumerate(others, start=1):
            if latency_ms:
                rows.inherited_latency.append(
                    {
                        "tenant": self._tenant,
                        "task": row["task"],
                        "depth": depth,
                        "call_id": row["call_id"],
                        "number": row["number"],
                        "latency_ms": latency_ms,
                    }
                )

    def _refusal(
        self, rows: Rows, at_ms: int, task: str, words: Sequence[str], fields: Mapping[str, str]
    ) -> None:
        """Read a call that was refused: it took a number at its reserve, and there is no other."""
        row = self._call_row("refused", at_ms, task, words, _read_about(_storable(fields["a"])))
        code, tripped, episode, scope, name, *stop = fields["s"].split(" ")
        in_flight = code == "budget_in_flight"
        row |= {
            "number": row["reserve_number"],
            "nano_usd": 0,
            "decision": "refuse",
            "code": code,
            "status": _IN_FLIGHT_STATUS if in_flight else self._refusal_status,
            **balances(fields["b"].split(" ")),
            **_more_columns(fields),
        }
        rows.calls.append(row)
        if not stop or in_flight:
            return
        dimension, used, allowed, line = stop
        breach = self._breach(row, scope, name, dimension) | {
            "effect": "refuse",
            "code": code,
            "used": int(used),
            "allowed": int(allowed),
            "line": int(line),
        }
        rows.breaches.append(breach)
        if code == "velocity_exceeded":
            rows.notices.append(notice_of_velocity(breach, episode))
        if tripped == "1":
            trip = breach | {"effect": "trip", "episode": int(episode)}
            rows.breaches.append(trip)
            rows.notices.append(notice_of_trip(trip))

    def _breach(self, row: Row, scope: str, name: str, dimension: str) -> Row:
        return {
            "tenant": self._tenant,
            "task": row["task"],
            "scope": scope,
            "name": name,
            "dimension": dimension,
            "effect": "flag",
            "episode": 0,
            "code": row["code"] or "",
            "phase": row["phase"],
            "call_id": row["call_id"],
            "number": row["number"],
            "at_ms": row["at_ms"],
        }

    # Tasks --------------------------------------------------------------------------------------

    def _task(self, rows: Rows, at_ms: int, task: str, words: Sequence[str], text: str) -> None:
        parts = _read_strings(text)
        data = dict(zip(parts[::2], parts[1::2], strict=True))
        facts, snapshot = facts_from_text(data["facts"]), data.get("snapshot")
        is_task = data["facts"] != UNTAGGED_FACTS
        rows.tasks.append(
            {
                "tenant": self._tenant,
                "task": task,
                "created_ms": at_ms,
                "facts": data["facts"],
                "complexity": facts.complexity.value if is_task else None,
                "importance": facts.importance.value if is_task else None,
                "config_hash": msgspec.json.decode(snapshot)["config_hash"] if snapshot else None,
                "snapshot": snapshot,
                "provisional": True if "blocked" in words else None,
            }
        )
        rows.ancestry += [
            {"tenant": self._tenant, "task": task, "ancestor": parent, "depth": depth}
            for depth, parent in enumerate(facts.parents, start=1)
        ]

    def _execution(self, rows: Rows, at_ms: int, task: str, words: Sequence[str]) -> None:
        phase, number, tokens, latency_ms, nano_usd, *generation = words
        if phase not in _PHASES:
            raise ValueError(f"unknown phase {phase!r}")
        rows.phase_executions.append(
            {
                "tenant": self._tenant,
                "task": task,
                "phase": phase,
                "execution": int(number),
                "generation": int(generation[0]) if generation else None,
                "started_ms": at_ms,
                "tokens_limit": number_of(tokens),
                "latency_limit_ms": number_of(latency_ms),
                "nano_usd_limit": number_of(nano_usd),
            }
        )

    def _override(self, rows: Rows, at_ms: int, task: str, number: int, text: str) -> None:
        document = _storable(text)
        override = _read_override(document)
        row: Row = {"tenant": self._tenant, "number": number, "reason": override.reason}
        rows.overrides.append(
            row
            | {
                "task": task,
                "kind": override.kind.value,
                "approver": override.approver,
                "created_ms": override.created_ms,
                "expires_ms": override.expires_ms,
                "phase": override.phase.value if override.phase else None,
                "factor": str(override.factor) if override.factor is not None else None,
                "tokens": override.amounts.tokens,
                "latency_ms": override.amounts.latency_ms,
                "nano_usd": override.amounts.nano_usd,
                "document": document,
            }
        )
        rows.audit.append(
            row
            | {
                "at_ms": at_ms,
                "actor": override.approver,
                "action": f"override.{override.kind.value}",
                "subject": task,
                "details": document,
            }
        )
        rows.notices.append(notice_of_override(rows.audit[-1]))

    def _act(self, rows: Rows, at_ms: int, task: str, words: Sequence[str], text: str) -> None:
        number, state, *of_phase = words
        act = _read_act(_storable(text))
        told = {"state": state} | dict(zip(("execution", "idle_ms"), of_phase, strict=False))
        rows.audit.append(self._audited(act, int(number), at_ms, task, told))
        rows.notices += notice_of_act(rows.audit[-1])

    def _correction(
        self, rows: Rows, at_ms: int, task: str, words: Sequence[str], fields: Mapping[str, str]
    ) -> None:
        call_id, number, tokens, nano_usd = words
        act = _read_act(_storable(fields["d"]))
        rows.corrections.append(
            {
                "tenant": self._tenant,
                "call_id": call_id,
                "number": int(number),
                "tokens": int(tokens),
                "nano_usd": number_of(nano_usd),
                "corrected_ms": at_ms,
            }
        )
        rows.audit.append(self._audited(act, int(number), at_ms, task, {"call": call_id}))
        rows.notices += pressure_notices(self._tenant, task, at_ms, fields.get("p", ""))

    def _record(
        self, rows: Rows, at_ms: int, subject: str, number: int, fields: Mapping[str, str]
    ) -> None:
        """Read what there is of a key or a session from now on, and who did it, if anybody did."""
        rows.records.append(record_row(self._tenant, subject, _storable(fields["k"]), number))
        if fields["d"]:
            act = _read_act(_storable(fields["d"]))
            rows.audit.append(self._audited(act, number, at_ms, subject, {}))

    def _audited(
        self, act: Act, number: int, at_ms: int, task: str, more: Mapping[str, str]
    ) -> Row:
        return {
            "tenant": self._tenant,
            "number": number,
            "at_ms": at_ms,
            "actor": act.actor,
            "action": act.action,
            "subject": task,
            "reason": act.reason,
            "details": _encode({**more, **act.details}).decode(),
        }


def _more_columns(fields: Mapping[str, str]) -> Row:
    """Return what only some calls' entries tell: windows of spend limits, a later generation."""
    keys = fields.get("w", "").split()
    return {
        "generation": int(fields.get("g", "1")),
        "windows": " ".join(key.partition(":window:")[2] for key in keys) or None,
    }


def _task_of(key: str) -> str:
    """Return a task's id from its key behind the tenant's prefix; a bucket's begins with `-`.

    What is no task (`store/notes.py`) keeps its kind, which no task's id can look like.
    """
    kind, _, name = key.partition(":")
    if name and kind in ("key", "files", "session", "breach", "gateway"):
        return key
    if not name or kind not in ("task", "untagged"):
        raise ValueError(f"not a task's key: {key!r}")
    return f"-{name}" if kind == "untagged" else name


def _storable(text: str) -> str:
    """Return text that every database takes: no NUL, no half of a surrogate pair."""
    if "\\u0000" in text or "\0" in text:
        text = text.replace("\\u0000", "").replace("\0", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
