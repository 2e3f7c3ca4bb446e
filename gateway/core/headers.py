"""Header rules: which pass, which are ours, and what every answer says about the budget.

Headers travel as lists of (name, value) byte pairs in the order and letter case they came in.
"""

from urllib.parse import unquote_to_bytes

from msgspec import Struct

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

# Where clients put a credential; `X-Tollgate-Key` beside one that is for the provider.
KEY_HEADERS = frozenset({b"x-tollgate-key", b"authorization", b"x-api-key", b"x-goog-api-key"})

_NEVER_TO_UPSTREAM = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"x-tollgate-key",
    b"forwarded",
    # They turn a request that reads into one that calls a model.
    b"x-http-method-override",
    b"x-http-method",
    b"x-method-override",
}
_NEVER_TO_UPSTREAM_PREFIX = b"x-forwarded-"
_NEVER_TO_CLIENT = HOP_BY_HOP | {b"content-length", b"set-cookie"}
_NEVER_TO_CLIENT_PREFIXES = (b"x-tollgate-", b"x-budget-")
_MEANT_FOR_US = TAG_HEADERS | {b"baggage"}
_READ = _MEANT_FOR_US | {b"anthropic-version"}
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_NAMES_REMEMBERED = 2_048
_LONGEST_REMEMBERED = 64


class NameRule(Struct, frozen=True):
    """What becomes of headers by their name alone.

    `passes_up`, `passes_down`: they go to the provider, to the client, unless `Connection` lists
    them. `is_read` marks those that tell the gateway what a call is, `frames` those that say where
    a request ends or what connection it wants, `may_be_key` those where a gateway key may stand.
    """

    lower: bytes
    passes_up: bool
    passes_down: bool
    is_read: bool
    frames: bool
    may_be_key: bool


class _Rules(dict[bytes, NameRule]):
    """The rule for each header name, in any letter case.

    Clients use the same few names call after call, and each is looked up several times: what is
    known costs no Python step. Bounded, for clients choose the names.
    """

    def __missing__(self, name: bytes) -> NameRule:
        lower = name.lower()
        spelt = lower.replace(b"_", b"-")  # many a server takes either
        up = spelt not in _NEVER_TO_UPSTREAM and not spelt.startswith(_NEVER_TO_UPSTREAM_PREFIX)
        down = lower not in _NEVER_TO_CLIENT and not lower.startswith(_NEVER_TO_CLIENT_PREFIXES)
        rule = NameRule(
            lower,
            passes_up=up and lower not in _MEANT_FOR_US and lower != b"accept-encoding",
            passes_down=down,
            is_read=lower in _READ,
            frames=lower in _FRAMING,
            may_be_key=lower in KEY_HEADERS,
        )
        if len(name) <= _LONGEST_REMEMBERED:
            if len(self) >= _NAMES_REMEMBERED:
                self.clear()
            self[name] = rule
        return rule


RULES = _Rules()


def _without_listed(kept: Headers, headers: Headers) -> Headers:
    """Return `kept` without what `Connection` among `headers` lists: that ends at this hop."""
    values = [value for name, value in headers if RULES[name].lower == b"connection"]
    if not values:
        return kept
    listed = {name.strip().lower() for value in values for name in value.split(b",")}
    if listed <= HOP_BY_HOP:
        return kept
    return [header for header in kept if RULES[header[0]].lower not in listed]


def request_headers(headers: Headers, *, forward_tags: bool, metered: bool) -> Headers:
    """Return what of a client's headers goes to the provider.

    A metered answer is asked for unencoded, so that the meter can read it.
    """
    kept = [
        passing
        for header in headers
        if (
            passing := header
            if RULES[header[0]].passes_up
            else _if_wanted(header, forward_tags=forward_tags, metered=metered)
        )
    ]
    if metered:
        kept.append((b"accept-encoding", b"identity"))
    return _without_listed(kept, headers)


def _if_wanted(
    header: tuple[bytes, bytes], *, forward_tags: bool, metered: bool
) -> tuple[bytes, bytes] | None:
    """Return what goes on of a header that does not go on in every case."""
    name, value = header
    lower = RULES[name].lower
    if lower == b"accept-encoding":
        return None if metered else header
    if lower not in _MEANT_FOR_US:
        return None
    if forward_tags:
        return header
    rest = without_task_members(value) if lower == b"baggage" else b""
    return (name, rest) if rest else None


def response_headers(headers: Headers) -> Headers:
    """Return what of a provider's headers goes to the client."""
    return _without_listed([header for header in headers if RULES[header[0]].passes_down], headers)


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
