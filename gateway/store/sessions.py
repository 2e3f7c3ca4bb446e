"""Session bindings in the store: written by the admin plane, read by workers (`core/sessions.py`).

A binding is one string in the tenant's slot, which the store lets go when it expires. The ledger is
told of each, and gives them back to a store that lost its data.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import msgspec

from gateway.core.acts import Act
from gateway.core.sessions import Binding, Session, binding_text, session_of
from gateway.store.connection import Argument, StoreConnection
from gateway.store.keys import TenantKeys
from gateway.store.limits import server_ms
from gateway.store.scripts import load_script

_REMEMBERED = 10_000
_BATCH = 100


class SessionPlace(NamedTuple):
    """Where a session stands in the list, which goes from the greatest place down."""

    expires_ms: int
    session_id: str


class SessionPage(NamedTuple):
    """Some bound sessions; `following` is the place to go on after, None at the end."""

    sessions: tuple[Session, ...]
    following: SessionPlace | None


async def bind_session(
    connection: StoreConnection,
    names: TenantKeys,
    session_id: str,
    binding: Binding,
    act: Act | None = None,
) -> None:
    """Bind a session anew; `act` is for the audit. Raises StoreError."""
    text = binding_text(binding)
    await _bind(connection, names, session_id, text, binding.expires_ms, act)


async def unbind_session(
    connection: StoreConnection, names: TenantKeys, session_id: str, act: Act | None = None
) -> bool:
    """End a binding; return whether there was one: only then `act` is on record."""
    return await _bind(connection, names, session_id, "", 0, act)


async def _bind(
    connection: StoreConnection,
    names: TenantKeys,
    session_id: str,
    text: str,
    expires_ms: int,
    act: Act | None,
) -> bool:
    keys = [names.clock, names.ledger, names.session(session_id), names.sessions]
    told = msgspec.json.encode(act) if act is not None else ""
    args: list[Argument] = ["", f"session:{session_id}", text, expires_ms, told, session_id]
    return int(await connection.run(load_script("bind"), keys, args)) == 1


async def restore_session(
    connection: StoreConnection, names: TenantKeys, session_id: str, binding: Binding
) -> bool:
    """Bind a session as the ledger knows it, unless it is bound; return whether it was not.

    A binding that has expired is not kept. Raises StoreError.
    """
    key, text = names.session(session_id), binding_text(binding)
    await connection.execute("ZADD", names.sessions, "NX", binding.expires_ms, session_id)
    return bool(await connection.execute("SET", key, text, "NX", "PXAT", binding.expires_ms))


async def read_session(connection: StoreConnection, names: TenantKeys, session_id: str) -> Session:
    """Return a session as the store knows it. Raises StoreError."""
    text = await connection.execute("GET", names.session(session_id))
    return session_of(session_id, text)


async def list_sessions(
    connection: StoreConnection, names: TenantKeys, limit: int, after: SessionPlace | None = None
) -> SessionPage:
    """Return up to `limit` sessions that are bound, the last to expire first, from behind `after`.

    Raises StoreError.
    """
    now_ms, found = await server_ms(connection), list[Session]()
    top: str | int = "+inf" if after is None else after.expires_ms
    for offset in count(0, _BATCH):
        places = await _places(connection, names, top, now_ms, offset)
        # Sessions of the same millisecond, and those bound since, may lie before `after`.
        fresh = [place for place in places if after is None or place < after]
        for place, session in zip(fresh, await _sessions(connection, names, fresh), strict=True):
            if session.binding is not None:
                if len(found) == limit:
                    return SessionPage(tuple(found), after)
                found.append(session)
            after = place
        if len(places) < _BATCH:
            break
    return SessionPage(tuple(found), None)


async def _places(
    connection: StoreConnection, names: TenantKeys, top: str | int, now_ms: int, offset: int
) -> list[SessionPlace]:
    reply = await connection.execute(
        *("ZREVRANGEBYSCORE", names.sessions, top, f"({now_ms}", "WITHSCORES"),
        *("LIMIT", offset, _BATCH),
    )
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return [SessionPlace(int(float(score)), session_id) for session_id, score in pairs]


async def _sessions(
    connection: StoreConnection, names: TenantKeys, places: Sequence[SessionPlace]
) -> list[Session]:
    """Return the sessions at `places`; one that has just ended is bound to nothing."""
    if not places:
        return []
    keys = [names.session(place.session_id) for place in places]
    texts = await connection.execute("MGET", *keys)
    pairs = zip(places, texts, strict=True)
    return [session_of(place.session_id, text) for place, text in pairs]


class SessionCopies:
    """A worker's copies of sessions. Bounded: the oldest go first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Session] = OrderedDict()

    def get(self, tenant: str, session_id: str) -> Session | None:
        """Return the copy of a session, None if there is none."""
        return self._known.get((tenant, session_id))

    def remember(self, tenant: str, session: Session) -> None:
        """Keep a copy."""
        self._known[tenant, session.id] = session
        self._known.move_to_end((tenant, session.id))
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, tenant: str, session_id: str) -> None:
        """Drop a copy, which is old."""
        self._known.pop((tenant, session_id), None)
