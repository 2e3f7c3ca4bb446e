"""Session bindings in the store: written by the admin plane, read by workers (`core/sessions.py`).

A binding is one string in the tenant's slot, which the store lets go when it expires.
"""

from collections import OrderedDict

from gateway.core.sessions import Binding, Session, binding_text, session_of
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys

_REMEMBERED = 10_000


async def bind_session(
    connection: StoreConnection, names: TenantKeys, session_id: str, binding: Binding
) -> None:
    """Bind a session, in place of what it was bound to. Raises StoreError."""
    key, text = names.session(session_id), binding_text(binding)
    await connection.execute("SET", key, text, "PXAT", binding.expires_ms)


async def unbind_session(connection: StoreConnection, names: TenantKeys, session_id: str) -> bool:
    """End a binding; return whether there was one. Raises StoreError."""
    return int(await connection.execute("DEL", names.session(session_id))) == 1


async def read_session(connection: StoreConnection, names: TenantKeys, session_id: str) -> Session:
    """Return a session as the store knows it. Raises StoreError."""
    text = await connection.execute("GET", names.session(session_id))
    return session_of(session_id, text)


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
