"""Marks: what a rule beside the budgets says of a call that is let through."""

from gateway.core.vocabulary import Vocabulary


class Mark(Vocabulary):
    """Whether a call passes as it is, with a flag, or would be refused in enforce mode."""

    PASSES = "passes"
    FLAGGED = "flagged"
    WOULD_REFUSE = "would_refuse"
