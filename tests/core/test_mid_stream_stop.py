"""What an agent reads at the end of a stream that was stopped."""

import pytest

from gateway.core.mid_stream_stop import stop_message

CUT = "the rest of the answer was cut off. Retrying will not help."


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "task_killed",
            f"Task T was killed by an operator: {CUT} Stop, or ask an operator to resume it "
            "(POST /admin/v1/tasks/T/resume).",
        ),
        (
            "task_blocked",
            f"Task T is blocked until its registration is corrected: {CUT} Stop, or ask an "
            "operator to register it correctly (POST /admin/v1/tasks).",
        ),
        (
            "task_budget_exceeded",
            f"Task T exceeded its budget while this answer was on its way: {CUT} Finish the task, "
            "or ask an operator for an override (POST /admin/v1/tasks/T/overrides).",
        ),
        (
            "spend_limit_exceeded",
            "Task T is held to a spend limit that was exceeded while this answer was on its way: "
            f"{CUT} Finish the task, or ask an operator to raise the limit.",
        ),
    ],
)
def test_the_way_out_is_one_that_works(code: str, message: str) -> None:
    """No override frees a task that was killed or blocked."""
    assert stop_message("T", code, has_parents=False) == message


def test_a_task_above_may_be_the_one_that_is_over() -> None:
    message = stop_message("T", "task_killed", has_parents=True)
    assert message.startswith("Task T, or a task above it, was killed by an operator")
