"""Which notices a webhook is told, and how its receiver knows them."""

from dataclasses import replace

import pytest
from msgspec import structs

from gateway.core.match import CallMatch
from gateway.core.notices import Notice, NoticeKind
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy_base import Match, Mode
from gateway.core.webhook import WebhookPolicy, signature

HOOK = WebhookPolicy(url="http://hooks.test/", secret_env="SECRET")
TRIP = Notice(NoticeKind.TRIP, "1", "default", "T-7", 1_000, {"phase": "VERIFY"})
LOSS = Notice(NoticeKind.STORE_LOSS, "e", "default", "", 1_000)
MEDIUM = (Complexity.MEDIUM, ImportanceTier.MEDIUM)


def test_one_without_events_is_told_everything() -> None:
    assert all(HOOK.wants(structs.replace(TRIP, kind=kind), MEDIUM) for kind in NoticeKind)
    assert HOOK.wants(structs.replace(TRIP, task="-anonymous"), None)


def test_events_and_mode_choose() -> None:
    chosen = replace(HOOK, events=frozenset({NoticeKind.TRIP}))
    assert chosen.wants(TRIP, MEDIUM)
    assert not chosen.wants(structs.replace(TRIP, kind=NoticeKind.KILL), MEDIUM)
    assert replace(HOOK, mode=Mode.OBSERVE).wants(TRIP, MEDIUM)
    assert not replace(HOOK, mode=Mode.OFF).wants(TRIP, MEDIUM)


@pytest.mark.parametrize(
    ("match", "wanted"),
    [
        (Match(complexity=frozenset({Complexity.MEDIUM})), True),
        (Match(complexity=frozenset({Complexity.LARGE})), False),
        (Match(importance=frozenset({ImportanceTier.MEDIUM})), True),
        (Match(importance=frozenset({ImportanceTier.LOW})), False),
        (Match(calls=(CallMatch(task=frozenset({"T-*"})),)), True),
        (Match(calls=(CallMatch(task=frozenset({"U-*"})),)), False),
        (Match(calls=(CallMatch(phase=frozenset({WorkPhase.VERIFY})),)), True),
        (Match(calls=(CallMatch(phase=frozenset({WorkPhase.PLAN})),)), False),
        (Match(calls=(CallMatch(tenant=frozenset({"default"})),)), True),
        (Match(calls=(CallMatch(tenant=frozenset({"other"})),)), False),
        (Match(calls=(CallMatch(key=frozenset({"*"})),)), False),
        (Match(calls=(CallMatch(model=frozenset({"*"})),)), False),
    ],
)
def test_a_match_looks_at_the_task(match: Match, wanted: bool) -> None:
    hook = replace(HOOK, match=match)
    assert hook.wants(TRIP, MEDIUM) is wanted
    assert hook.wants(LOSS, None)  # concerns everybody


@pytest.mark.parametrize("name", ["complexity", "importance"])
def test_a_bucket_of_untagged_calls_has_no_tiers(name: str) -> None:
    tiers = {"complexity": Complexity.MEDIUM, "importance": ImportanceTier.MEDIUM}
    match = Match(**{name: frozenset({tiers[name]})})  # type: ignore[arg-type]
    assert not replace(HOOK, match=match).wants(structs.replace(TRIP, task="-anonymous"), None)


def test_the_signature_is_over_time_and_body() -> None:
    """As `printf '1700000000.{}' | openssl dgst -sha256 -hmac secret` prints it."""
    signed = signature(b"secret", 1_700_000_000, b"{}")
    assert signed == "b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
    assert signature(b"secret", 1_700_000_001, b"{}") != signed
    assert signature(b"other", 1_700_000_000, b"{}") != signed
