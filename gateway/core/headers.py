"""Header rules: which pass, which are ours, and what every answer says about the budget.

Headers travel as lists of (name, value) byte pairs in the order and letter case they came in.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes

from gateway.core.admission import Balance
from gateway.core.budget import NANO_USD_PER_USD, breach_status, percent

Headers = list[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1, and what a proxy has to compute itself.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

TAG_HEADERS = frozenset(
    {
        b"x-task-id",
        b"x-task-phase",
        b"x-phase",
        b"x-task-complexity",
        b"x-task-importance",
        b"x-task-parent",
        b"x-task-grace",
    }
)
BAGGAGE_TAGS = frozenset({"task.id", "task.phase", "task.complexity", "task.importance"})

_NEVER_TO_UPSTREAM = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"x-tollgate-key",
    b"forwarded",
}
_NEVER_TO_UPSTREAM_PREFIX = b"x-forwarded-"
_NONE: frozenset[bytes] = frozenset()
_NEVER_TO_CLIENT = HOP_BY_HOP | {b"content-length", b"set-cookie"}
_NEVER_TO_CLIENT_PREFIXES = (b"x-tollgate-", b"x-budget-")


def listed_in_connection(headers: Headers) -> frozenset[bytes]:
    """Return the header names that `Connection` lists: they end at this hop."""
    listed: frozenset[bytes] = _NONE
    for header, value in headers:
        if header.lower() == b"connection":
            listed |= {name.strip().lower() for name in value.split(b",")}
    return listed


def request_headers(headers: Headers, *, forward_tags: bool, metered: bool) -> Headers:
    """Return what of a client's headers goes to the provider.

    A metered answer is asked for unencoded, so that the meter can read it.
    """
    dropped = _NEVER_TO_UPSTREAM | listed_in_connection(headers)
    if not forward_tags:
        dropped |= TAG_HEADERS
    if metered:
        dropped |= {b"accept-encoding"}
    kept = []
    for name, value in headers:
        lower = name.lower()
        if lower in dropped or lower.startswith(_NEVER_TO_UPSTREAM_PREFIX):
            continue
        if lower == b"baggage" and not forward_tags:
            rest = without_task_members(value)
            if rest:
                kept.append((name, rest))
            continue
        kept.append((name, value))
    if metered:
        kept.append((b"accept-encoding", b"identity"))
    return kept


def response_headers(headers: Headers) -> Headers:
    """Return what of a provider's headers goes to the client."""
    dropped = _NEVER_TO_CLIENT | listed_in_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(_NEVER_TO_CLIENT_PREFIXES)
    ]


def baggage_members(value: bytes) -> dict[str, str]:
    """Return the members of a W3C baggage header by lower-case name, properties left out.

    Values are percent-decoded; of members with one name the first counts.
    """
    members: dict[str, str] = {}
    for member in value.split(b","):
        _, separator, text = member.partition(b";")[0].partition(b"=")
        if separator:
            plain = unquote_to_bytes(text.strip()).decode("utf-8", "replace")
            members.setdefault(_member_name(member), plain)
    return members


def without_task_members(value: bytes) -> bytes:
    """Return a baggage header's value without the members that are meant for the gateway."""
    kept = [member for member in value.split(b",") if _member_name(member) not in BAGGAGE_TAGS]
    return b",".join(kept).strip(b", \t")


def _member_name(member: bytes) -> str:
    return member.partition(b";")[0].partition(b"=")[0].strip().lower().decode("latin-1")


def budget_header_lines(
    task: Balance | None,
    phase: Balance | None,
    own_hold: int,
    spent_nano_usd: int,
) -> str:
    """Return the `x-budget-*` header lines, each ended by CRLF; none without a task.

    `used` is what was settled before this call; `remaining` leaves out live holds and its own.
    """
    if task is None:
        return ""
    used, allowed = task.settled, task.allowed
    status = breach_status(used, allowed, task.cumulative).value
    lines = (
        f"x-budget-task-tokens-limit: {allowed}\r\n"
        f"x-budget-task-tokens-used: {used}\r\n"
        f"x-budget-task-tokens-remaining: {max(0, allowed - used - task.held - own_hold)}\r\n"
        f"x-budget-task-cost-usd-used: {format_usd(spent_nano_usd)}\r\n"
        f"x-budget-status: {status}\r\n"
        f"x-budget-pressure: {percent(used, allowed)}\r\n"
    )
    if phase is None:
        return lines
    left = phase.allowed - phase.settled - phase.held - own_hold
    return (
        f"{lines}x-budget-phase-tokens-limit: {phase.allowed}\r\n"
        f"x-budget-phase-tokens-used: {phase.settled}\r\n"
        f"x-budget-phase-tokens-remaining: {max(0, left)}\r\n"
    )


def format_usd(nano_usd: int) -> str:
    """Return dollars with six decimals, rounded down."""
    return f"{nano_usd // NANO_USD_PER_USD}.{nano_usd % NANO_USD_PER_USD // 1000:06d}"


def header_map(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Return the headers by lower-case name; of repeated ones the last."""
    return {name.lower(): value for name, value in headers}
