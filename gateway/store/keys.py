"""The key schema: every key that Tollgate writes, on one page.

All keys of a tenant share the hash tag `{tenant}`, so one script may touch all of them on a cluster
as well. Ids are validated before they come here (`core/identity.py`), so no key can be forged.

    tg:{_}:probe                    string  written to learn whether the store takes writes; a TTL
    tg:{_}:keys                     hash    key id -> gateway key as JSON (`core/keys.py`)
    tg:{T}:keys                     hash    key id -> its version: an older copy is stale;
                                            <key id>:text -> the key, for whoever has that
    tg:{T}:clock                    string  number of the latest act, microseconds; never runs back
    tg:{T}:epoch                    string  written once; gone if the server lost its data
    tg:{T}:tasks                    zset    task id -> created, ms
    tg:{T}:leases                   zset    call id -> end of its lease, ms
    tg:{T}:ledger                   stream  what happened and is not in SQL yet (`lua/shared.lua`)
    tg:{T}:ledger:owner             string  id of the ledger that it is written to, with a TTL
    tg:{T}:ledger:rebuild           string  while somebody gives back what was lost, with a TTL
    tg:{T}:ledger:lost              string  entries that the cap took before SQL had them
    tg:{T}:task:<id>                hash    one task: snapshot, limits in force, totals (below)
    tg:{T}:task:<id>:overrides      list    its overrides as JSON, oldest first
    tg:{T}:task:<id>:loop           list    its latest requests, with a TTL (`lua/loop.lua`)
    tg:{T}:untagged:<key id>        hash    totals of calls without a task, by gateway key
    tg:{T}:enforcement              string  who switched it off; without it it is on
    tg:{T}:gateways                 hash    gateway -> when it looked, ms, and its rules' hashes
    tg:{T}:begun:<key id>           zset    tasks that a capped key has begun -> when, ms
    tg:{T}:session:<id>             string  what a client's session is bound to, with a TTL
    tg:{T}:sessions                 zset    id of a bound session -> when that expires, ms
    tg:{T}:response:<id>            string  the call of an answer in the background, with a TTL
    tg:{T}:task:<id>:rate:<ms>      hash    its velocity, by length of span (`lua/limits.lua`)
    tg:{T}:window:<policy>:<kind>:<name>@<window>
                                    hash    a spend limit's totals in one window; a TTL (likewise)
    tg:{T}:call:<id>                hash    an open call's hold; afterwards a tombstone with a TTL

Fields of a task's hash. `<d>` is a dimension: tokens, latency_ms, nano_usd, calls.

    facts snapshot created version                  what the task is; version counts limit changes
    registration                                    digest of what was registered, if it was
    generation                                      2 once it was reopened, and so on
    state state_ms before_kill before_block         where it is in its life (`core/acts.py`)
    phase last                                      current phase, time of the last call
    <d>.L <d>.G <d>.C <d>.R                         limit, grants, cumulative and runaway line
    <d>.S <d>.H                                     settled, held
    <d>.A completion                                up to where it may complete; generation that may
    inflight since                                  open calls, since when there is at least one
    trip trip_code trip_ms episode                  the stop-loss: dimension, reason, time, count
    loop growing.calls .input                       loops (`lua/loop.lua`)
    grace                                           the stop that was passed by grace
    expires                                         when the next override runs out, ms
    refused would_refuse.* expired.* estimated.*    counters
    raw.<kind>                                      unweighted token counts
    <PHASE>.<d>.L|C|S|H  .inflight .since .last     the same for a phase
    <PHASE>.exec .closed                            its current and last closed execution
    REVIEW.past                                     the last one of the generation before
    x.<PHASE>.<n>.tokens|latency_ms|started|ended   one execution
    x.<PHASE>.<n>.explicit|wall_ms                  the same, where somebody said when it was
    x.<PHASE>.<n>.idle_ms                           no wall time: what of it, before somebody said
    wall                                            1: phases are held to wall time (G-7)
    parallel                                        how often a phase began beside another's calls

C and R have the grants in them. A dimension without a limit lacks L, G, C and R.
"""

from collections.abc import Mapping
from itertools import chain

import msgspec

from gateway.core.budget import Dimension, Lines, TaskLimits, TokenWeights
from gateway.core.overrides import LimitsInForce, limits_in_force
from gateway.core.phases import Complexity, ImportanceTier
from gateway.ports import TaskFacts

PROBE_KEY = "tg:{_}:probe"
KEYS_KEY = "tg:{_}:keys"
UNTAGGED_FACTS = "untagged"
_UNTAGGED = TaskFacts(Complexity.MEDIUM, ImportanceTier.MEDIUM)


class TenantKeys:
    """The keys of one tenant."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self._prefix = f"tg:{{{tenant}}}:"
        self.clock = self._prefix + "clock"
        self.epoch = self._prefix + "epoch"
        self.key_versions = self._prefix + "keys"
        self.tasks = self._prefix + "tasks"
        self.sessions = self._prefix + "sessions"
        self.leases = self._prefix + "leases"
        self.enforcement = self._prefix + "enforcement"
        self.gateways = self._prefix + "gateways"
        self.ledger = self._prefix + "ledger"
        self.ledger_owner = self._prefix + "ledger:owner"
        self.ledger_rebuild = self._prefix + "ledger:rebuild"
        self.ledger_lost = self._prefix + "ledger:lost"

    def task(self, task_id: str) -> str:
        """Return the hash of a task, or of a key's untagged calls (`-` and the key's id)."""
        if task_id.startswith("-"):
            return f"{self._prefix}untagged:{task_id[1:]}"
        return f"{self._prefix}task:{task_id}"

    def overrides(self, task_id: str) -> str:
        """Return the list of a task's overrides."""
        return f"{self._prefix}task:{task_id}:overrides"

    def response(self, response_id: str) -> str:
        """Return the key that leads from a response in the background to its call."""
        return f"{self._prefix}response:{response_id}"

    def begun(self, key_id: str) -> str:
        """Return the tasks that a gateway key has begun, if their number is capped."""
        return f"{self._prefix}begun:{key_id}"

    def session(self, session_id: str) -> str:
        """Return the key of what a client's session is bound to."""
        return f"{self._prefix}session:{session_id}"

    def window(self, policy: str, kind: str, name: str) -> str:
        """Return the hash of a spend limit; `name` is whose it is, and the window behind an @."""
        return self.window_named(f"{policy}:{kind}:{name}")

    def window_named(self, window: str) -> str:
        """Return the same by the window's whole name, as the ledger has it."""
        return f"{self._prefix}window:{window}"

    def call(self, call_id: str) -> str:
        """Return the hash of a call."""
        return f"{self._prefix}call:{call_id}"


def facts_text(facts: TaskFacts) -> str:
    """Return facts as the one string that scripts compare."""
    w = facts.weights
    return "|".join(
        (
            facts.complexity,
            facts.importance,
            ",".join(facts.parents),
            f"{w.input},{w.cached_read},{w.cache_write},{w.output}",
        )
    )


def facts_from_text(text: str) -> TaskFacts:
    """Return the facts that `facts_text` wrote."""
    if text == UNTAGGED_FACTS:
        return _UNTAGGED
    complexity, importance, parents, weights = text.split("|")
    return TaskFacts(
        Complexity(complexity),
        ImportanceTier(importance),
        tuple(filter(None, parents.split(","))),
        TokenWeights(*map(int, weights.split(","))),
    )


def snapshot_fields(facts: str, limits: TaskLimits) -> list[str]:
    """Return field, value, ... that create a task."""
    in_force = limits_in_force(limits, (), now_ms=0)
    return [*fixed_fields(facts, limits), "version", "0", *limit_fields(in_force)]


def fixed_fields(facts: str, limits: TaskLimits) -> list[str]:
    """Return field, value, ... of what no override changes."""
    return [
        "facts",
        facts,
        "snapshot",
        msgspec.json.encode(limits).decode(),
        *(("wall", "1") if limits.stop_loss.latency_basis == "wall" else ()),
    ]


def limit_fields(in_force: LimitsInForce) -> list[str]:
    """Return field, value, ... of the limits in force."""
    fields = _line_fields("", in_force.task, in_force.granted)
    for phase, lines in in_force.phases.items():
        fields += _line_fields(f"{phase.value}.", lines, {})
    for dimension, line in in_force.completion.items():
        fields += [f"{dimension.value}.A", str(line + in_force.granted.get(dimension, 0))]
    return fields


def _line_fields(
    prefix: str, lines: Mapping[Dimension, Lines], granted: Mapping[Dimension, int]
) -> list[str]:
    pairs = []
    for dimension, line in lines.items():
        grant, name = granted.get(dimension, 0), prefix + dimension.value
        pairs += [(f"{name}.L", line.limit), (f"{name}.C", line.cumulative + grant)]
        if not prefix:
            pairs += [(f"{name}.G", grant), (f"{name}.R", line.runaway + grant)]
    return [str(part) for part in chain.from_iterable(pairs)]
