"""Everything that the ways of a call are wired to."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.ports.budget_store import BudgetStore, Keys
from gateway.ports.http import Upstreams, Wording
from gateway.ports.recording import Recorder, Tokenizer

Clock = Callable[[], float]
"""Monotonic seconds; only differences mean anything."""

NewCallId = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Doors:
    """What the ways of a call are wired to (`app.py`)."""

    store: BudgetStore
    keys: Keys
    upstreams: Upstreams
    wording: Wording
    recorder: Recorder
    tokenizer: Tokenizer
    clock: Clock
    new_call_id: NewCallId
