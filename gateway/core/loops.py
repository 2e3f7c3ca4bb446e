"""Loops: a task that makes the same request again and again, or grows its context for nothing.

A request is told by its fingerprint: a hash of its wire format, model and body, but for members
that change from call to call without changing what is asked. `store/lua/loop.lua` counts it, in the
same script that reserves (GW-13).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
from msgspec import Struct

from gateway.core.mark import Mark
from gateway.core.policy_base import Effect, Mode, Policy

CODE = "loop_detected"
VOLATILE = frozenset(
    {
        *("user", "metadata", "client_metadata", "labels", "request_id"),
        *("safety_identifier", "prompt_cache_key", "stream", "stream_options"),
        *("event_id", "stream_id"),  # of an event on a socket
    }
)
_KEPT_ELSEWHERE = frozenset({"openai_realtime"})  # dialects whose provider keeps what is asked
_DIGEST_BYTES = 12
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class LoopPolicy(Policy):
    """A policy of kind `loop`.

    The call that makes it `calls` identical ones within `window_s` seconds is a loop. Growing: each
    of the last `growing_calls` calls had more input than the one before and fewer than
    `growing_output_tokens` out; 0 calls: not looked for. That is only ever flagged.
    """

    name: str = "loop"
    effect: Effect = Effect.REFUSE
    calls: int = 20
    window_s: int = 600
    growing_calls: int = 0
    growing_output_tokens: int = 200


class LoopPlan(Struct, frozen=True):
    """A policy as it holds for one call. It `refuses`, or only would in enforce mode.

    `fingerprint` is empty where no repetition is looked for, only whether the task was stopped: at
    a gate, and for requests that do not say what is asked.
    """

    policy: str
    fingerprint: str
    calls: int
    window_ms: int
    refuses: bool = False
    would_refuse: bool = False
    growing_calls: int = 0
    growing_output_tokens: int = 0


class LoopStanding(Struct, frozen=True):
    """What the store says: how often the request was made, this time included, and since when.

    `stopped_now` tells that this call stopped the task. `growing` is for how many calls its context
    has grown with little output.
    """

    repeats: int = 0
    stopped_now: bool = False
    growing: int = 0


def plan_loop(policy: LoopPolicy | None, mode: Mode, fingerprint: str) -> LoopPlan | None:
    """Return what a policy in `mode` asks of the store, None if nothing."""
    if policy is None or mode is Mode.OFF:
        return None
    refuses = policy.effect is Effect.REFUSE
    return LoopPlan(
        policy.name,
        fingerprint,
        policy.calls,
        policy.window_s * 1000,
        refuses and mode is Mode.ENFORCE,
        refuses and mode is Mode.OBSERVE,
        policy.growing_calls,
        policy.growing_output_tokens,
    )


def fingerprint_of(dialect: str, model: str, body: bytes) -> str:
    """Return what tells a request from others of its task: 24 hex digits.

    What is no JSON object counts whole. Empty where the request does not say what is asked: in a
    realtime session, whose conversation is at the provider, and for what began by itself (`{}`).
    """
    if dialect in _KEPT_ELSEWHERE or body == b"{}":
        return ""
    digest = blake2b(f"{dialect}\0{model}\0".encode("utf-8", "replace"), digest_size=_DIGEST_BYTES)
    try:
        members = _decode_members(body)
    except (ValueError, RecursionError):
        digest.update(body)
        return digest.hexdigest()
    for name, value in members.items():
        if name not in VOLATILE:
            digest.update(b'"%b":' % name.encode("utf-8", "replace"))
            digest.update(value)
    return digest.hexdigest()


def repeats_of(
    fingerprint: str, earlier: Iterable[tuple[int, str]], now_ms: int, window_ms: int
) -> int:
    """Return how often a request was made within the window, this time included.

    The specification of `store/lua/loop.lua`. `earlier` are times and fingerprints of the calls
    that were let through.
    """
    return 1 + sum(known == fingerprint and at_ms > now_ms - window_ms for at_ms, known in earlier)


def growing_after(growing: int, last_input: int, input_: int, output: int, plan: LoopPlan) -> int:
    """Return for how many calls the context has grown with little output, this one included.

    The specification of `note_growth` in `store/lua/loop.lua`.
    """
    if output >= plan.growing_output_tokens:
        return 0
    return growing + 1 if input_ > last_input else 1


def loop_mark(plan: LoopPlan, standing: LoopStanding) -> Mark:
    """Return how a call is marked that was let through."""
    if standing.repeats >= plan.calls:
        return Mark.WOULD_REFUSE if plan.would_refuse else Mark.FLAGGED
    return Mark.FLAGGED if _grows(plan, standing) else Mark.PASSES


def loop_events(plan: LoopPlan, standing: LoopStanding) -> list[tuple[str, str]]:
    """Return the names and levels of events, once for each loop."""
    events = []
    if standing.stopped_now:
        events.append((CODE, "critical"))
    elif not plan.refuses and standing.repeats == plan.calls:
        events.append((CODE, "warning"))
    if _grows(plan, standing) and standing.growing == plan.growing_calls:
        events.append(("context_growing", "warning"))
    return events


def _grows(plan: LoopPlan, standing: LoopStanding) -> bool:
    return 0 < plan.growing_calls <= standing.growing


def loop_message(task: str, plan: LoopPlan) -> str:
    """Return what the agent reads."""
    return (
        f"Task {task} goes in circles: the same request was made {plan.calls} times within "
        f"{plan.window_ms // 1000}s (policy {plan.policy}). Every call of the task is refused "
        "until an operator has looked at it; retrying will not help. Stop, and ask for a resume "
        f"(POST /admin/v1/tasks/{task}/resume)."
    )
