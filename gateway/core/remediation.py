"""What the task that is to mend a breach is called (SL-6)."""

import hashlib

from gateway.core.identity import MOST_ID

_FIX = "FIX-BUDGET-BREACH-"
_DIGITS = 12


def remediation_task(task: str, episode: int) -> str:
    """Return the name of the remediation task for a breach episode; never nested (SL-6).

    A name that no call could give is cut, and told apart by a digest of the whole.
    """
    name = task if is_remediation(task) else f"{_FIX}{task}"
    return _nameable(name, "" if episode <= 1 else f"-{episode}")


def told_apart(name: str, episode: int) -> str:
    """Return another name for a roadmap that has a task of this one about another breach.

    Task `A` has it in its second episode, and a task `A-2` in its first.
    """
    return _nameable(name, f".episode-{max(1, episode)}")


def _nameable(name: str, suffix: str) -> str:
    if len(name) + len(suffix) <= MOST_ID:
        return name + suffix
    tail = f".{hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}{suffix}"
    return name[: MOST_ID - len(tail)] + tail


def is_remediation(task: str) -> bool:
    """Return whether a task is itself the remediation of another; it gets none (SL-6)."""
    return task.startswith(_FIX)
