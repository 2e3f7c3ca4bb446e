"""Policies of kind `output_clamp`: a call asks for no more output than its budget pays for.

The reserve answers what each line leaves (`shaping.affordable_output`). A ceiling above that is
lowered to it, one that is missing put in (`WireFormat.clamped`), never below a minimum: a clamp
refuses nothing.
"""

from dataclasses import dataclass

from gateway.core.policy_base import Policy


@dataclass(frozen=True, slots=True)
class OutputClampPolicy(Policy):
    """A policy of kind `output_clamp`; `min_tokens` of output are left to a call at least."""

    name: str = "output-clamp"
    min_tokens: int = 1_024
