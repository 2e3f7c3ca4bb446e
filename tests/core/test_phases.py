"""The closed vocabularies of a task."""

import pytest

from gateway.core.phases import (
    Complexity,
    ImportanceTier,
    WorkPhase,
    allowed_terms,
    elapsed_ms,
    parse_term,
)


def test_the_nine_phases_stand_in_working_order() -> None:
    assert [phase.value for phase in sorted(WorkPhase, key=lambda phase: phase.order)] == [
        "STRATEGIZE",
        "SPEC",
        "PLAN",
        "THINK",
        "IMPLEMENT",
        "VERIFY",
        "REVIEW",
        "PR",
        "MONITOR",
    ]
    assert [phase.order for phase in WorkPhase] == list(range(1, 10))


@pytest.mark.parametrize("vocabulary", [WorkPhase, Complexity, ImportanceTier])
def test_every_word_is_understood_in_any_letter_case(
    vocabulary: type[WorkPhase] | type[Complexity] | type[ImportanceTier],
) -> None:
    for member in vocabulary:
        for text in (member.value, member.value.lower(), member.value.upper(), f" {member.value} "):
            assert parse_term(vocabulary, text) is member


@pytest.mark.parametrize("text", ["", "MEDIUMS", "VERIFY!", "\uff36ERIFY", "None", "high"])
def test_a_word_of_no_phase_is_none(text: str) -> None:
    assert parse_term(WorkPhase, text) is None


def test_vocabularies_do_not_mix() -> None:
    """`Medium` is a complexity and, in another case, an importance."""
    assert parse_term(Complexity, "medium") is Complexity.MEDIUM
    assert parse_term(ImportanceTier, "Medium") is ImportanceTier.MEDIUM
    assert parse_term(Complexity, "critical") is None


def test_allowed_terms_lists_the_words_in_order() -> None:
    assert allowed_terms(Complexity) == "Tiny, Small, Medium, Large"
    assert allowed_terms(ImportanceTier) == "low, medium, high, critical"


def test_EC8_longer_than_a_day_is_no_time() -> None:
    assert [elapsed_ms(now, 1_000) for now in (0, 1_000, 86_401_000, 86_401_001)] == [
        0,
        0,
        86_400_000,
        0,
    ]
