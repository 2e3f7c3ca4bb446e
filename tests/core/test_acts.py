"""States of a task: what may follow what."""

import pytest

from gateway.core.acts import Act, TaskState, Verb, state_after

OPEN, DONE, AGAIN, KILLED, BLOCKED = (
    TaskState.OPEN,
    TaskState.COMPLETED,
    TaskState.REOPENED,
    TaskState.KILLED,
    TaskState.BLOCKED,
)


@pytest.mark.parametrize(
    ("verb", "state", "before_kill", "after"),
    [
        *((Verb.KILL, state, OPEN, KILLED) for state in TaskState),
        *((Verb.RESUME, KILLED, before, before) for before in (OPEN, DONE, AGAIN, BLOCKED)),
        *((Verb.RESUME, state, OPEN, state) for state in (OPEN, DONE, AGAIN, BLOCKED)),
        *((Verb.COMPLETE, state, OPEN, DONE) for state in (OPEN, DONE, AGAIN)),
        *((Verb.COMPLETE, state, OPEN, None) for state in (KILLED, BLOCKED)),
        *((Verb.REOPEN, state, OPEN, AGAIN) for state in (DONE, AGAIN)),
        *((Verb.REOPEN, state, OPEN, None) for state in (OPEN, KILLED, BLOCKED)),
    ],
)
def test_what_follows(
    verb: Verb, state: TaskState, before_kill: TaskState, after: TaskState | None
) -> None:
    """A kill ends only by a resume, a block at registration by neither."""
    assert state_after(verb, state, before_kill) is after


@pytest.mark.parametrize("before", [OPEN, DONE, AGAIN])
def test_EC17_a_resume_frees_what_was_a_task_before_it_was_blocked(before: TaskState) -> None:
    assert state_after(Verb.RESUME, BLOCKED, OPEN, before) is before
    assert state_after(Verb.COMPLETE, BLOCKED, OPEN, before) is None


def test_an_act_says_who_did_what_and_why() -> None:
    act = Act("task.kill", "ada", "wrong repository")
    assert (act.action, act.actor, act.reason, act.details) == (
        *("task.kill", "ada", "wrong repository"),
        {},
    )
