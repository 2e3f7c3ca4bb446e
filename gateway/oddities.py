"""What is odd about a call, told as events: to people and alerts, never to the client."""

from collections import OrderedDict

from gateway.accounting import MISSING_USAGE_WARNING, Charge
from gateway.call import Call
from gateway.core.admission import Verdict
from gateway.core.decision import Receipt
from gateway.core.notice_levels import crossed_levels
from gateway.ports import Recorder, Settled

_TOLD_REMEMBERED = 10_000


class Oddities:
    """Tells of them; what lasts, once."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._told: OrderedDict[tuple[str, ...], None] = OrderedDict()

    def tell_of_charge(self, call: Call, phase: str, charge: Charge, settled: Settled) -> None:
        """Tell what is odd about a settled call, and which notice levels it took its task over."""
        tell = self._recorder.event
        if settled.left_out_ms:
            tell("latency_invalid", "error", task=call.task, latency_ms=settled.left_out_ms)
        if charge.is_doubtful:
            tell("usage_doubtful", "warning", call_id=call.call_id, task=call.task)
        if charge.lacked_usage:
            about = call.task, phase
            self._tell_once("usage_missing", "warning", *about, message=MISSING_USAGE_WARNING)
        for level in crossed_levels(settled.tokens_before, settled.tokens_after, settled.limit):
            tell("budget_notice", task=call.task, percent=level)

    def tell_of_phases(self, task: str, receipt: Receipt) -> None:
        """Tell of phases side by side (EC10), and of calls beside a phase begun in words (EC22)."""
        phase, other, begun = receipt.phase, receipt.parallel_phase, receipt.unended_phase
        if phase is None:
            return
        if other is not None and receipt.verdict is Verdict.HELD:
            self._tell_once("parallel_phases", "critical", task, phase, other=other.value)
        if begun is not None:
            self._tell_once("phase_mismatch", "warning", task, phase, begun=begun.value)

    def _tell_once(self, event: str, level: str, task: str, phase: str, **fields: str) -> None:
        """Tell of something once per task and phase, as of estimated tokens (USE-3)."""
        about = event, task, phase, *fields.values()
        if about in self._told:
            return
        self._told[about] = None
        if len(self._told) > _TOLD_REMEMBERED:
            self._told.popitem(last=False)
        self._recorder.event(event, level, task=task, phase=phase, **fields)
