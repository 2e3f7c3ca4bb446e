"""The table: every operation of the admin API that has a command, and its commands."""

import click

from gateway.admin_cli.operation import Operation, Rows
from gateway.admin_cli.parameters import (
    BECAUSE,
    BINDING_HOURS,
    BY,
    CHARGE,
    COMPLEXITY,
    HOURS,
    IMPORTANCE,
    KEY,
    PHASE,
    argument,
    option,
)
from gateway.admin_cli.task_operations import TASK_OPERATIONS

_CALL = argument("call")
_SESSION = argument("session")
_KEY_ID = argument("key")
_OF_TASK = option("--task", told="Of this task alone.")
_LIMIT = option("--limit", kind=click.IntRange(1, 200), told="How many at most [default: 50].")
_TOKENS = click.IntRange(0)


def _in_state(*states: str) -> click.Option:
    return option("--state", kind=click.Choice(states), told="In this state alone.")


_RULES = (
    Operation(
        "policies list",
        "listPolicies",
        "GET",
        "/admin/v1/policies",
        "Show the policies in force, with their hash.",
    ),
    Operation(
        "policies reload",
        "reloadPolicies",
        "POST",
        "/admin/v1/policies/reload",
        "Read budgets, policies, prices and roadmap anew; exit code 1 if a file has a fault.",
    ),
    Operation(
        "policies dry-run",
        "dryRun",
        "POST",
        "/admin/v1/policies/dry-run",
        "Explain step by step what a call would be told now; nothing is held or counted.",
        (
            argument("task"),
            option("--phase", kind=PHASE, told="The work phase [default: the task's current]."),
            option("--complexity", kind=COMPLEXITY, told="Of a task that is not there yet."),
            option("--importance", kind=IMPORTANCE, told="Of a task that is not there yet."),
            option("--model", told="The model, for the price of its tokens."),
            option("--input-tokens", kind=_TOKENS, told="How long its input is."),
            option("--output-tokens", kind=_TOKENS, told="How long its output may be."),
            option("--key", told="The id of the gateway key that pays."),
            option("--grace", told="Ask for the one call after a stop.", is_flag=True),
            option("--path", told="Where it goes [default: /v1/chat/completions]."),
        ),
        view="dry_run",
    ),
    Operation(
        "enforcement show",
        "getEnforcement",
        "GET",
        "/admin/v1/enforcement",
        "Show whether policies refuse anything, and what keeps them from it.",
    ),
    Operation(
        "enforcement off",
        "switchEnforcement",
        "POST",
        "/admin/v1/enforcement",
        "Switch all enforcement off, with the next call on every gateway.",
        (HOURS, *BECAUSE),
        fixed={"enabled": False},
    ),
    Operation(
        "enforcement on",
        "switchEnforcement",
        "POST",
        "/admin/v1/enforcement",
        "Switch enforcement on again.",
        BECAUSE,
        fixed={"enabled": True},
    ),
    Operation(
        "prices show",
        "getPrice",
        "GET",
        "/admin/v1/prices",
        "Show what a model costs here.",
        (argument("model"), option("--provider", told="Where it may cost more, such as azure.")),
    ),
)

_HISTORY = (
    Operation(
        "breaches list",
        "listBreaches",
        "GET",
        "/admin/v1/breaches",
        "List lines that were crossed, the latest first.",
        (
            _OF_TASK,
            option("--phase", kind=PHASE, told="In this phase alone."),
            option("--effect", kind=click.Choice(("flag", "refuse", "trip"))),
        ),
        Rows(
            "breaches",
            (
                *("at", "task", "phase", "scope", "name", "dimension"),
                *("effect", "code", "used", "line", "call", "verdict"),
            ),
        ),
        paged=True,
    ),
    Operation(
        "breaches judge",
        "judgeBreach",
        "POST",
        "/admin/v1/breaches/{call}/false-positive",
        "Say whether the block of a call was right.",
        (_CALL, argument("verdict", click.Choice(("false_positive", "justified"))), *BECAUSE),
    ),
    Operation(
        "audit list",
        "listAudit",
        "GET",
        "/admin/v1/audit",
        "List who changed what and why, the latest first.",
        (
            option("--subject", told="A task, or key: and a key's id."),
            option("--actor", told="Who did it."),
            option("--action", told="Such as task.kill."),
        ),
        Rows("entries", ("at", "actor", "action", "subject", "reason", "details")),
        paged=True,
    ),
    Operation(
        "events watch",
        "watchEvents",
        "GET",
        "/admin/v1/events",
        "Show what happens, as it happens, until it is stopped; --json has an object a line.",
        view="event",
        streams=True,
    ),
    Operation(
        "remediation list",
        "listRemediation",
        "GET",
        "/admin/v1/remediation",
        "List tasks that are to mend breaches, the latest first.",
        (_OF_TASK, _in_state("pending", "failed", "written", "listed"), _LIMIT),
        Rows("remediations", ("created", "name", "task", "state", "attempts", "error")),
    ),
    Operation(
        "deliveries list",
        "listDeliveries",
        "GET",
        "/admin/v1/deliveries",
        "List notices for webhooks, the latest first.",
        (_OF_TASK, _in_state("pending", "delivered", "dead"), _LIMIT),
        Rows("deliveries", ("created", "webhook", "kind", "task", "state", "attempts", "error")),
    ),
    Operation(
        "statistics show",
        "getStatistics",
        "GET",
        "/admin/v1/statistics",
        "Show how the gateway has done over a period, and which figures are alarming.",
        (
            option("--since", told="From this time on (ISO 8601) [default: 14 days before]."),
            option("--until", told="Before this time [default: now]."),
            option("--by", kind=click.Choice(("phase", "complexity")), told="Tell apart by."),
        ),
    ),
    Operation(
        "calls correct",
        "correctCall",
        "POST",
        "/admin/v1/calls/{call}/correct",
        "Mend what a call that has ended was charged.",
        (_CALL, *CHARGE, *BECAUSE),
        view="changed",
    ),
    Operation(
        "health show",
        "getReadiness",
        "GET",
        "/readyz",
        "Show whether the gateway can serve calls; exit code 1 if it cannot.",
        also=(503,),
        public=True,
    ),
)

_SESSIONS = (
    Operation(
        "sessions list",
        "listSessions",
        "GET",
        "/admin/v1/sessions",
        "List clients' sessions that are bound to a task, the last to expire first.",
        view=Rows("sessions", ("session", "task", "phase", "by", "bound", "expires")),
        paged=True,
    ),
    Operation(
        "sessions bind",
        "bindSession",
        "PUT",
        "/admin/v1/sessions/{session}",
        "Say which task a client's session works for.",
        (
            _SESSION,
            argument("task"),
            option("--phase", kind=PHASE, told="In this phase [default: the task's current]."),
            BINDING_HOURS,
            *BY,
        ),
    ),
    Operation(
        "sessions show",
        "getSession",
        "GET",
        "/admin/v1/sessions/{session}",
        "Show what a client's session is bound to.",
        (_SESSION,),
    ),
    Operation(
        "sessions unbind",
        "unbindSession",
        "DELETE",
        "/admin/v1/sessions/{session}",
        "End a session's binding.",
        (_SESSION, *BY),
    ),
)

_KEYS = (
    Operation(
        "keys remote list",
        "listKeys",
        "GET",
        "/admin/v1/keys",
        "List all gateway keys, without their secrets.",
        view=Rows("keys", ("id", "state", "name", "team", "models", "upstreams", "expires_ms")),
    ),
    Operation(
        "keys remote show",
        "getKey",
        "GET",
        "/admin/v1/keys/{key}",
        "Show a gateway key, without its secret.",
        (_KEY_ID,),
    ),
    Operation(
        "keys remote create",
        "createKey",
        "POST",
        "/admin/v1/keys",
        "Make a key called NAME. Its text is shown now and never again.",
        KEY,
        view="key_made",
    ),
    Operation(
        "keys remote rotate",
        "rotateKey",
        "POST",
        "/admin/v1/keys/{key}/rotate",
        "Give a key a new secret, shown now; the old one is good for the hours of grace.",
        (
            _KEY_ID,
            option("--grace-hours", kind=click.IntRange(0, 720), told="[default: 24]"),
            *BY,
        ),
        view="key_made",
    ),
    Operation(
        "keys remote revoke",
        "revokeKey",
        "POST",
        "/admin/v1/keys/{key}/revoke",
        "Stop a key for good: its next call is answered 401 on every gateway.",
        (_KEY_ID, *BY),
    ),
)

OPERATIONS = (*TASK_OPERATIONS, *_RULES, *_HISTORY, *_SESSIONS, *_KEYS)
