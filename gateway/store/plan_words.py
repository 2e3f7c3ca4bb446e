"""Parts of a plan as the scripts read them: words with blanks between."""

from gateway.core.admission import Effects
from gateway.core.budget import Dimension
from gateway.core.grace import GracePlan
from gateway.core.loops import LoopPlan
from gateway.core.model_downgrade import SoftLine
from gateway.core.policy import Effect

_DIMENSIONS = tuple(Dimension)
_LETTER = {Effect.REFUSE: "R", Effect.FLAG: "F", None: "-"}
_MOST_EFFECTS = 100


class EffectLetters:
    """One letter a dimension, for task and phase: remembered, since few policies make them."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Effects, str]] = {}

    def of(self, effects: Effects) -> str:
        """Return the letters of these effects, as `lua/reserve.lua` reads them."""
        known = self._known.get(id(effects))
        if known is None or known[0] is not effects:
            task = (_LETTER[effects.task.get(dimension)] for dimension in _DIMENSIONS)
            phase = (_LETTER[effects.phase.get(dimension)] for dimension in _DIMENSIONS)
            known = self._known[id(effects)] = (effects, "".join((*task, *phase)))
            if len(self._known) > _MOST_EFFECTS:
                self._known.clear()
        return known[1]


def loop_words(plan: LoopPlan) -> str:
    """Return a plan as `lua/loop.lua` reads it."""
    effect = "R" if plan.refuses else "F"
    return f"{plan.fingerprint or '-'} {effect} {plan.calls} {plan.window_ms}"


def grace_words(plan: GracePlan) -> str:
    """Return a plan as `lua/grace.lua` reads it."""
    return f"{int(plan.asked)} {plan.allowance_tokens} {plan.ceiling} {plan.least}"


def soft_line_words(line: SoftLine) -> str:
    """Return a line as `lua/reserve.lua` reads it."""
    place = "phase" if line.of_phase else "task"
    return f"{place} {_DIMENSIONS.index(line.dimension) + 1} {line.percent}"
