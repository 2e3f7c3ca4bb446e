"""What an override may say, and what is answered to everything else."""

import json
from decimal import Decimal
from typing import Any

import pytest

from gateway.admin.answers import ApiError
from gateway.admin.override_requests import (
    MOST_SECONDS,
    MOST_UNITS,
    MOST_USD,
    parse_override,
    to_override,
)
from gateway.core.budget import Amounts
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import WorkPhase
from tests.admin.plane import WHO, StartPlane

NOW = 1_700_000_000_000
GRANT = {"kind": "grant", "tokens": 5_000, **WHO}
LIMIT = {"kind": "phase_limit", "phase": "THINK", "tokens": 5_000, **WHO}
FACTOR = {"kind": "multiplier", "factor": 2, **WHO}
RESUME = {"kind": "resume", **WHO}
NOTHING: dict[str, Any] = {}


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


def made(**said: Any) -> Override:
    return to_override(parse_override({**WHO, **said}), NOW)


def wanted(kind: OverrideKind, **changes: Any) -> Override:
    return Override(kind, "ada", "nearly done", NOW, **changes)


# What may be said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "amounts"),
    [
        ({"tokens": 1}, Amounts(1)),
        ({"tokens": MOST_UNITS}, Amounts(MOST_UNITS)),
        ({"latency_ms": 60_000}, Amounts(latency_ms=60_000)),
        ({"cost_usd": 3}, Amounts(nano_usd=3_000_000_000)),
        ({"cost_usd": Decimal("0.1")}, Amounts(nano_usd=100_000_000)),
        ({"cost_usd": "12.50"}, Amounts(nano_usd=12_500_000_000)),
        ({"cost_usd": "0.000000001"}, Amounts(nano_usd=1)),
        ({"cost_usd": MOST_USD}, Amounts(nano_usd=MOST_USD * 10**9)),
        ({"tokens": 7, "latency_ms": 8, "cost_usd": "9"}, Amounts(7, 8, 9_000_000_000)),
        ({"tokens": 7, "latency_ms": None, "cost_usd": None}, Amounts(7)),
    ],
)
@pytest.mark.parametrize("kind", [OverrideKind.GRANT, OverrideKind.PHASE_LIMIT])
def test_amounts(kind: OverrideKind, said: dict[str, Any], amounts: Amounts) -> None:
    """Tokens, milliseconds, dollars: any of them; dollars exactly."""
    where = {"phase": "PLAN"} if kind is OverrideKind.PHASE_LIMIT else {}
    phase = WorkPhase.PLAN if where else None
    assert made(kind=kind.value, **where, **said) == wanted(kind, amounts=amounts, phase=phase)


@pytest.mark.parametrize("text", ["THINK", "think", "Think", " think "])
def test_a_phase_in_any_letter_case(text: str) -> None:
    assert made(kind="phase_limit", phase=text, tokens=5).phase is WorkPhase.THINK


@pytest.mark.parametrize("factor", [2, "2", Decimal("0.05"), 10, "10.0", "0.00000000000000000001"])
def test_a_factor(factor: Any) -> None:
    expected = wanted(OverrideKind.MULTIPLIER, factor=Decimal(factor))
    assert made(kind="multiplier", factor=factor) == expected


def test_a_resume_says_nothing_else() -> None:
    assert made(kind="resume") == wanted(OverrideKind.RESUME)


@pytest.mark.parametrize("seconds", [1, MOST_SECONDS])
def test_an_end(seconds: int) -> None:
    assert made(kind="resume", expires_in_s=seconds).expires_ms == NOW + seconds * 1000


def test_texts_are_kept_but_for_blanks_around_them() -> None:
    found = made(kind="resume", approver="  Ada Löv  ", reason=" first\nsecond\tthird ")
    assert (found.approver, found.reason) == ("Ada Löv", "first\nsecond\tthird")
    assert made(kind="resume", approver="a" * 200, reason="r" * 2_000)


# What may not -------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # no kind
    ("kind", without(GRANT, "kind"), NOTHING),
    ("kind", GRANT, {"kind": "gift"}),
    ("kind", GRANT, {"kind": "GRANT"}),
    ("kind", GRANT, {"kind": None}),
    ("kind", GRANT, {"kind": ["grant"]}),
    # amounts
    ("tokens", without(GRANT, "tokens"), NOTHING),
    ("tokens", without(LIMIT, "tokens"), NOTHING),
    ("tokens", GRANT, {"tokens": None}),
    *(
        (name, GRANT, {name: value})
        for name in ("tokens", "latency_ms")
        for value in (0, -1, True, False, "5000", "five thousand", 5.0, 1e3, [], {}, MOST_UNITS + 1)
    ),
    *(
        ("cost_usd", GRANT, {"cost_usd": value})
        for value in (
            *(0, -1, 0.0, -0.5, True, "", "0", "-1", "1e3", "1_000", "\u0661", " 1", "$1", "NaN"),
            *("inf", [], {}, 1e-10, "0.0000000001", MOST_USD + 1, "100000.01", 1e30, 1e-300),
        )
    ),
    # phase
    ("phase", without(LIMIT, "phase"), NOTHING),
    ("phase", LIMIT, {"phase": "THINKING"}),
    ("phase", LIMIT, {"phase": ""}),
    ("phase", LIMIT, {"phase": None}),
    ("phase", LIMIT, {"phase": 4}),
    ("phase", GRANT, {"phase": "THINK"}),
    ("phase", FACTOR, {"phase": "THINK"}),
    ("phase", RESUME, {"phase": "THINK"}),
    # factor
    ("factor", without(FACTOR, "factor"), NOTHING),
    *(
        ("factor", FACTOR, {"factor": value})
        for value in (0, -1, 10.01, 11, "10.1", True, None, "two", [], f"0.{'1' * 20}1", 1e-30)
    ),
    ("factor", GRANT, {"factor": 2}),
    ("factor", LIMIT, {"factor": 2}),
    ("factor", RESUME, {"factor": 2}),
    ("tokens", FACTOR, {"tokens": 2}),
    ("cost_usd", RESUME, {"cost_usd": 2}),
    # who, why, how long
    *(
        (name, body, {name: value})
        for name in ("approver", "reason")
        for body in (GRANT, LIMIT, FACTOR, RESUME)
        for value in ("", "   ", None, 5, True, [])
    ),
    ("approver", without(GRANT, "approver"), NOTHING),
    ("reason", without(RESUME, "reason"), NOTHING),
    ("approver", GRANT, {"approver": "a" * 201}),
    ("approver", GRANT, {"approver": "a\nlevel=critical"}),
    ("approver", GRANT, {"approver": "\ud800"}),
    ("reason", GRANT, {"reason": "r" * 2_001}),
    ("reason", GRANT, {"reason": "\x1b[2J"}),
    *(
        ("expires_in_s", GRANT, {"expires_in_s": value})
        for value in (0, -1, True, "60", 60.0, MOST_SECONDS + 1)
    ),
    # anything else
    ("amount", GRANT, {"amount": 5}),
    ("expires_ms", GRANT, {"expires_ms": 5}),
    ("calls", GRANT, {"calls": 5}),
    ("nano_usd", GRANT, {"nano_usd": 5}),
    ("Tokens", GRANT, {"Tokens": 5}),
]


@pytest.mark.parametrize(("field", "body", "changes"), WRONG)
async def test_a_fault_is_told_by_its_field(
    plane: StartPlane, field: str, body: dict[str, Any], changes: dict[str, Any]
) -> None:
    """With what is wrong and the way out; over the wire, as operators send it."""
    answer = await (await plane()).override({**body, **changes})
    assert answer.status == 422
    assert set(answer.error) == {"code", "message", "field"}
    assert answer.error["code"] == "invalid_override"
    assert answer.error["field"] == field
    assert answer.error["message"].startswith(f"{field}: ")
    assert ". Remedy: " in answer.error["message"]


@pytest.mark.parametrize("body", ["null", "[]", "5", '"grant"', "true"])
async def test_a_body_that_is_no_object(plane: StartPlane, body: str) -> None:
    answer = await (await plane()).override(body)
    assert (answer.status, answer.error["field"]) == (422, "kind")
    assert "JSON object" in answer.error["message"]


def message(body: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        parse_override(json.loads(json.dumps(body), parse_float=Decimal))
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {**GRANT, "tokens": "5000"},
            "tokens: must be a valid integer, not '5000'. Remedy: write a whole number, without "
            "quotes.",
        ),
        (
            {**GRANT, "tokens": 5.5},
            "tokens: must be a valid integer, not 5.5. Remedy: write a whole number, without "
            "quotes.",
        ),
        (
            {**GRANT, "phase": "PLAN"},
            "phase: is not a field of a grant override. Remedy: remove it; known here: approver, "
            "reason, expires_in_s, tokens, latency_ms, cost_usd, kind.",
        ),
        (
            {**LIMIT, "phase": "IMPL"},
            "phase: is not a phase. Remedy: did you mean 'IMPLEMENT'? known here: STRATEGIZE, "
            "SPEC, PLAN, THINK, IMPLEMENT, VERIFY, REVIEW, PR, MONITOR.",
        ),
        (
            {**FACTOR, "factor": 11},
            "factor: must be above 0 and at most 10. Remedy: choose such a number.",
        ),
        (
            without(GRANT, "tokens"),
            "tokens: at least one of tokens, cost_usd and latency_ms is required. Remedy: add an "
            "amount.",
        ),
        (without(RESUME, "reason"), "reason: a value is required. Remedy: add it."),
        (
            {**RESUME, "kind": "pause"},
            "kind: is not a kind of override. Remedy: choose one of grant, phase_limit, "
            "multiplier, resume.",
        ),
    ],
)
def test_messages(body: dict[str, Any], text: str) -> None:
    """They read like this."""
    assert message(body) == text
