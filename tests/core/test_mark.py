"""A mark shows in the decision of a call that is let through."""

import pytest

from gateway.core.decision import Decision, Outcome, marked
from gateway.core.mark import Mark

ALLOW = Decision(Outcome.ALLOW)


@pytest.mark.parametrize(
    ("mark", "outcome", "would_refuse"),
    [
        (Mark.PASSES, Outcome.ALLOW, False),
        (Mark.FLAGGED, Outcome.FLAG, False),
        (Mark.WOULD_REFUSE, Outcome.FLAG, True),
    ],
)
def test_a_mark_shows(mark: Mark, outcome: Outcome, would_refuse: bool) -> None:
    decision = marked(ALLOW, mark)
    assert (decision.outcome, decision.would_refuse) == (outcome, would_refuse)


def test_what_would_be_refused_already_stays_so() -> None:
    assert marked(Decision(Outcome.FLAG, would_refuse=True), Mark.FLAGGED).would_refuse


def test_a_refusal_stays_what_it_is() -> None:
    refusal = Decision(Outcome.REFUSE, code="task_killed")
    assert marked(refusal, Mark.WOULD_REFUSE) is refusal
