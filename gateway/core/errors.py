"""Every error that Tollgate raises itself, in one tree.

    TollgateError
    +-- InvalidConfigError      a configuration file or value is wrong (has a list of faults)
    +-- InvalidTaskConfigError  a task's own overrides are wrong (names task and field)
    +-- CallError               this call gets an answer of the gateway's own
    |   +-- BadCall             the request itself is at fault
    |   +-- UpstreamError       the provider's side is at fault
    +-- KeyIsOver               a gateway key is revoked or has expired
    +-- StoreError              the budget store did not do what was asked
    +-- LedgerError             the ledger's database did not do what was asked

Core never knows HTTP: an error carries a `code` of the outward contract, and
`server/refusals.py` alone turns codes into answers.
"""


class TollgateError(Exception):
    """Root of the tree."""


class InvalidConfigError(TollgateError):
    """A configuration is wrong; `faults` lists every finding, not just the first."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class InvalidTaskConfigError(TollgateError):
    """A task's overrides are wrong: `field` names the place, the message the remedy."""

    def __init__(self, task_id: str, field: str, message: str) -> None:
        super().__init__(f"task {task_id}: {field}: {message}")
        self.task_id = task_id
        self.field = field


class CallError(TollgateError):
    """This call ends with an answer of ours: `code` is one of the outward contract's codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BadCall(CallError):
    """The client's request cannot be carried out as it is."""


class UpstreamError(CallError):
    """The provider could not be reached, or broke off.

    `sent` tells whether any byte of the request may have left: then the provider may bill it.
    """

    def __init__(self, code: str, message: str, *, sent: bool) -> None:
        super().__init__(code, message)
        self.sent = sent


class KeyIsOver(TollgateError):
    """A gateway key that is revoked or has expired was to be given a new secret."""


class StoreError(TollgateError):
    """The budget store refused, broke or did not answer; `reason` is a short label for metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LedgerError(TollgateError):
    """The ledger's database refused, broke, or has another schema; no call ever meets this."""
