"""What a newcomer reads first: what to set, and what is in force."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.banner import AdminToken, banner
from gateway.core.policy import PolicySet
from gateway.settings import Settings
from tests.e2e.in_process import ENFORCING, OBSERVING, rules

DATA, ADMIN = ("127.0.0.1", 8080), ("127.0.0.1", 8081)
RULES = rules(OBSERVING, budgets_source="file")


def test_it_says_what_to_set() -> None:
    """Base URLs, the header, the admin plane."""
    text = banner(Settings(), RULES, DATA, ADMIN, AdminToken("secret"))
    assert "export OPENAI_BASE_URL=http://127.0.0.1:8080/v1" in text
    assert "export ANTHROPIC_BASE_URL=http://127.0.0.1:8080\n" in text
    assert "X-Task-Id" in text
    assert "http://127.0.0.1:8081/readyz" in text
    assert "secret" not in text


def test_ipv6_addresses_stand_in_brackets() -> None:
    """Or they could not be copied."""
    text = banner(Settings(), RULES, ("::1", 8080, 0, 0), ADMIN, AdminToken("s"))
    assert "http://[::1]:8080/v1" in text


def test_it_says_what_is_in_force() -> None:
    """Which budgets, policies and store; and how to get realistic ones."""
    text = banner(Settings(), RULES, DATA, ADMIN, AdminToken("s"))
    assert f"config/phase_budgets.yaml (hash {RULES.budgets.config_hash})" in text
    assert "stop-loss (observe)" in text
    assert "embedded, under state" in text
    assert "coding_agent.yaml" in text
    assert "ENFORCEMENT IS DISABLED" not in text
    other = replace(rules(ENFORCING), policies=PolicySet(()))
    text = banner(
        Settings(redis={"url": "redis://store.example"}, enforcement_disabled=True),
        other,
        DATA,
        ADMIN,
        AdminToken("s"),
    )
    assert "built-in defaults" in text
    assert "policies  none" in text
    assert "redis.url\n" in text
    assert "store.example" not in text  # the URL may hold a password
    assert "ENFORCEMENT IS DISABLED" in text


@pytest.mark.parametrize("is_new", [True, False])
def test_a_generated_token_is_shown_once(is_new: bool) -> None:
    """Later only where it is kept."""
    token = AdminToken("secret", Path("state/admin-token"), is_new)
    text = banner(Settings(), RULES, DATA, ADMIN, token)
    assert ("secret" in text) is is_new
    assert "state/admin-token" in text
