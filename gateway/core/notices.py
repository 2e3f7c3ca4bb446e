"""Notices: what is told to the outside, once each.

A notice is known by its id, which is made of what happened and of nothing else: however often the
same thing is read from the store's stream, by whatever process, it is one notice (SL-13, GW-19).
"""

import hashlib
from collections.abc import Mapping

from msgspec import Struct

from gateway.core.vocabulary import Vocabulary

Facts = Mapping[str, object]

_ID_DIGITS = 32


class NoticeKind(Vocabulary):
    """What a notice is about. The numbers are notice levels, percent of a limit."""

    PRESSURE_50 = "50"
    PRESSURE_80 = "80"
    PRESSURE_90 = "90"
    PRESSURE_100 = "100"
    TRIP = "trip"
    LOOP = "loop"
    VELOCITY = "velocity"
    KILL = "kill"
    RESUME = "resume"
    COMPLETE = "complete"
    OVERRIDE = "override"
    REMEDIATION = "remediation"
    REMEDIATION_FAILED = "remediation_failed"
    STORE_LOSS = "store_loss"
    ENFORCEMENT = "enforcement"


OF_NO_TASK = frozenset({NoticeKind.STORE_LOSS, NoticeKind.ENFORCEMENT})


class Notice(Struct, frozen=True):
    """One thing that happened. `key` tells it from all others of its kind; `task` may be empty.

    `facts` are what its kind has to say: words, integers, lists and mappings of them.
    """

    kind: NoticeKind
    key: str
    tenant: str
    task: str
    at_ms: int
    facts: Facts = {}

    @property
    def id(self) -> str:
        """Return the same text for the same event, always: receivers tell repetitions by it."""
        text = "\0".join((self.tenant, self.kind.value, self.task, self.key))
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]
