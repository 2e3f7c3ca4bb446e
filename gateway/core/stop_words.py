"""What an agent is told of a task that may not go on: why, and who can change that how."""

STATES = {
    "task_killed": "was killed by an operator",
    "task_blocked": "is blocked until its registration is corrected",
}


def way_out(task: str, code: str) -> str:
    """Return what ends a stop of this code; no override frees a task in one of STATES."""
    if code == "task_killed":
        return f"Stop, or ask an operator to resume it (POST /admin/v1/tasks/{task}/resume)."
    if code == "task_blocked":
        return "Stop, or ask an operator to register it correctly (POST /admin/v1/tasks)."
    return (
        "Finish the task, or ask an operator for an override "
        f"(POST /admin/v1/tasks/{task}/overrides)."
    )
