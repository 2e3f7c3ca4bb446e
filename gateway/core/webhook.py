"""Policies of kind `webhook`: which notices are posted where, and how a receiver knows them."""

import hashlib
import hmac
from dataclasses import dataclass

from gateway.core.notices import OF_NO_TASK, Notice, NoticeKind
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase, parse_term
from gateway.core.policy_base import Mode, Policy

Tiers = tuple[Complexity, ImportanceTier]
UNKNOWN_TO_NOTICES = ("key", "team", "model")


@dataclass(frozen=True, slots=True)
class WebhookPolicy(Policy):
    """A policy of kind `webhook`: where notices are posted to. No `events` are all of them.

    The secret itself is in a file or in a variable of the environment, never in the policy. Every
    policy whose match fits posts, not only the first; modes other than off are the same.
    """

    name: str = "webhook"
    mode: Mode = Mode.ENFORCE
    url: str = ""
    events: frozenset[NoticeKind] = frozenset()
    secret_file: str = ""
    secret_env: str = ""
    timeout_ms: int = 5_000
    attempts: int = 10
    allow_link_local: bool = False

    def wants(self, notice: Notice, tiers: Tiers | None) -> bool:
        """Return whether a notice is posted; `tiers` are its task's, None if it has none.

        A loss of the store, and enforcement that is switched, concern everybody, whatever tasks
        they ask for.
        """
        if self.mode is Mode.OFF or (self.events and notice.kind not in self.events):
            return False
        if notice.kind in OF_NO_TASK:
            return True
        if tiers is None and (self.match.complexity or self.match.importance):
            return False
        return _of_tiers(self, tiers) and all(
            one.matches(_Subject(notice)) for one in self.match.calls
        )


def _of_tiers(policy: WebhookPolicy, tiers: Tiers | None) -> bool:
    match = policy.match
    return tiers is None or (
        (not match.complexity or tiers[0] in match.complexity)
        and (not match.importance or tiers[1] in match.importance)
    )


class _Subject:
    """A notice as a policy's match looks at calls: its task, its phase, its tenant."""

    models: tuple[str | None, ...] = ()
    id = name = team = ""

    def __init__(self, notice: Notice) -> None:
        self.tenant = notice.tenant
        self.task: str | None = notice.task
        self.phase: WorkPhase | None = parse_term(WorkPhase, str(notice.facts.get("phase")))

    @property
    def key(self) -> "_Subject":
        """Return who pays: nothing is known of them but the tenant."""
        return self

    @property
    def tags(self) -> "_Subject":
        """Return what is said of the task."""
        return self


def signature(secret: bytes, timestamp_s: int, body: bytes) -> str:
    """Return what a receiver computes as well: HMAC-SHA256 over `timestamp.body`, in hex."""
    return hmac.new(secret, b"%d." % timestamp_s + body, hashlib.sha256).hexdigest()
