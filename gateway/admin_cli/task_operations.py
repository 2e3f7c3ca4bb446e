"""The table's part on tasks."""

import click

from gateway.admin_cli.operation import Operation
from gateway.admin_cli.parameters import (
    AMOUNTS,
    BECAUSE,
    COMPLEXITY,
    FACTOR,
    HOURS,
    ID,
    IMPORTANCE,
    PHASE,
    REGISTRATION,
    argument,
    by,
    option,
)

_TASK = "/admin/v1/tasks/{id}"
_STATUSES = ("open", "completed", "reopened", "killed", "blocked")
_BREACH_STATUSES = ("within", "warning", "exceeded")
_STOPS = ("ok", "tripped", "killed", "blocked")
_PHASE_OF_PATH = argument("phase", PHASE)


def _act(verb: str, told: str) -> Operation:
    """Return the command of something that is done to a task, by somebody, for a reason."""
    return Operation(
        f"tasks {verb}",
        f"{verb}Task",
        "POST",
        f"{_TASK}/{verb}",
        told,
        (ID, *BECAUSE),
        view="changed",
    )


def _override(
    verb: str, kind: str, told: str, parameters: tuple[click.Parameter, ...]
) -> Operation:
    return Operation(
        f"tasks {verb}",
        "overrideTask",
        "POST",
        f"{_TASK}/overrides",
        told,
        (ID, *parameters, HOURS, *BECAUSE),
        view="changed",
        fixed={"kind": kind},
    )


def _phase(what: str, told: str) -> Operation:
    return Operation(
        f"tasks {what}-phase",
        f"{what}Phase",
        "POST",
        f"{_TASK}/phases/{{phase}}/{what}",
        told,
        (ID, _PHASE_OF_PATH, by()),
        view="changed",
    )


TASK_OPERATIONS = (
    Operation(
        "tasks list",
        "listTasks",
        "GET",
        "/admin/v1/tasks",
        "List tasks, newest first.",
        (
            option("--status", kind=click.Choice(_STATUSES), told="Where it is in its life."),
            option(
                "--breach-status",
                kind=click.Choice(_BREACH_STATUSES),
                told="How its budget stands.",
            ),
            option("--stop-loss", kind=click.Choice(_STOPS), told="How its stop-loss stands."),
            option("--phase", kind=PHASE, told="Its current phase."),
            option("--complexity", kind=COMPLEXITY),
            option("--importance", kind=IMPORTANCE),
        ),
        view="tasks",
        paged=True,
    ),
    Operation(
        "tasks show",
        "getTask",
        "GET",
        _TASK,
        "Show a task: totals, phases, overrides, and its stop.",
        (ID,),
        view="task",
    ),
    Operation(
        "tasks register",
        "registerTask",
        "POST",
        "/admin/v1/tasks",
        "Register a task before its first call.",
        REGISTRATION,
        view="changed",
    ),
    Operation(
        "tasks phases",
        "listTaskPhases",
        "GET",
        f"{_TASK}/phases",
        "Show a task's phases and how often each was worked on.",
        (ID,),
        view="phases",
    ),
    Operation(
        "tasks overrides",
        "listTaskOverrides",
        "GET",
        f"{_TASK}/overrides",
        "Show a task's overrides, oldest first.",
        (ID,),
        view="overrides",
    ),
    Operation(
        "tasks report",
        "getTaskReport",
        "GET",
        f"{_TASK}/report",
        "Show a task's budget report, also while it runs; each access is put on record.",
        (
            ID,
            option("--redacted", told="Leave out people, their texts, other tasks.", is_flag=True),
        ),
        text_form="markdown",
    ),
    _override(
        "grant",
        "grant",
        "Give a task more, beside its limits; a stop that this makes room for ends.",
        AMOUNTS,
    ),
    _override(
        "limit",
        "phase_limit",
        "Set what a phase of a task may use, whatever was computed for it.",
        (_PHASE_OF_PATH, *AMOUNTS),
    ),
    _override(
        "multiply",
        "multiplier",
        "Multiply all of a task's computed limits by a factor, such as 1.5.",
        (FACTOR,),
    ),
    _phase("start", "Say that the work on a phase begins."),
    _phase("end", "Say that the work on a phase ends."),
    Operation(
        "tasks gate",
        "passGate",
        "POST",
        f"{_TASK}/gate",
        "Ask whether a task may leave a phase (VERIFY, if none is named); exit code 1 if not.",
        (
            ID,
            option("--phase", kind=PHASE, told="To leave."),
            option("--to", kind=PHASE, told="To enter."),
            option("--key", told="The id of the gateway key that pays."),
        ),
        view="gate",
    ),
    _act("kill", "Refuse all further calls of a task."),
    _act("resume", "Let a task that was stopped go on."),
    _act("complete", "Say that a task is done; its phases are closed."),
    _act("reopen", "Begin a completed task anew, with a whole budget."),
)
