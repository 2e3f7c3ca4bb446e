"""`docs/admin-api.md` says what the admin plane does."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.admin import bodies, health, keys, prices, sessions
from gateway.admin.api import ALL_ENDPOINTS
from gateway.admin.examples import ERROR_EXAMPLES
from gateway.admin.override_requests import parse_override

PAGE = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
BLOCKS = [
    json.loads(text, parse_float=Decimal)
    for text in re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
]


def with_members(*names: str) -> list[dict[str, Any]]:
    return [block for block in BLOCKS if set(names) <= set(block)]


@pytest.mark.parametrize("endpoint", ALL_ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_route_is_described_with_a_curl(endpoint: Any) -> None:
    _, found, rest = PAGE.partition(f"\n## {endpoint.method} {endpoint.path}\n")
    assert found, "has a heading of its own"
    section = rest.partition("\n## ")[0]
    path = endpoint.path.replace("{id}", "IMP-COST-01").replace("{phase}", "VERIFY")
    path = (
        path.replace("{session}", "5f0c0e2a")
        .replace("{call}", "c5f0c0e2a-1")
        .replace("{key}", "k3y1d4aa")
    )
    assert path in section
    assert ("Bearer $TOLLGATE_ADMIN_TOKEN" in section) is not endpoint.public


@pytest.mark.parametrize("code", [*ERROR_EXAMPLES, "not_found", "method_not_allowed"])
def test_every_code_is_described(code: str) -> None:
    assert f"`{code}`" in PAGE


def test_every_answer_that_is_shown_is_one() -> None:
    """Each has all members and no other."""
    shown = [
        *((bodies.TaskPageBody, block) for block in with_members("next_cursor")),
        *((bodies.PhaseBody, block) for block in with_members("executions")),
        *((bodies.OverrideAppliedBody, block) for block in with_members("override")),
        *((bodies.GateBody, block) for block in with_members("would_refuse")),
        *((bodies.TaskRegisteredBody, block) for block in with_members("outcome")),
        *((bodies.TaskChangedBody, block) for block in with_members("state", "changed")),
        *((bodies.PhaseChangedBody, block) for block in with_members("execution", "changed")),
        *((bodies.ErrorBody, block) for block in with_members("error")),
        *((bodies.CallCorrectedBody, block) for block in with_members("before", "after")),
        *((sessions.SessionBody, block) for block in with_members("session", "expires")),
        *((keys.KeyMadeBody, block) for block in with_members("key", "version")),
        *((prices.PriceBody, block) for block in with_members("usd_per_million")),
        *((health.ReadinessBody, block) for block in with_members("reasons")),
    ]
    assert len(shown) == 15
    for model, block in shown:
        assert model.model_validate(block).model_dump(exclude_unset=True) == block


def test_every_override_that_is_shown_is_accepted() -> None:
    curl = re.findall(r"-d '(\{.*\})'", PAGE)
    said = [*filter(lambda body: "kind" in body, map(json.loads, curl))]
    said += with_members("kind", "approver")
    assert [parse_override(body).kind for body in said] == [
        *("grant", "phase_limit", "multiplier", "resume")
    ]
