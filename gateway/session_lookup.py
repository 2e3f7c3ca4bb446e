"""Step 1, for calls that name no task: what the session that they belong to is bound to."""

from collections.abc import Sequence

from gateway.core.errors import StoreError
from gateway.core.headers import Headers
from gateway.core.identity import Tags
from gateway.core.keys import GatewayKey
from gateway.core.sessions import Session, session_id
from gateway.ports import BudgetStore


async def look_up_session(
    store: BudgetStore,
    tenant: str,
    names: Sequence[str],
    headers: Headers,
    tags: Tags,
    key: GatewayKey | None,
) -> Session | None:
    """Return the session whose binding a call needs; None if it names a task, or no session.

    The worker's copy serves if it has one: the reserve tells if it is old. A store that does not
    answer binds nothing; the reserve then tells that, too.
    """
    if tags.task is not None or (key is not None and key.pins.task is not None):
        return None
    named = session_id(headers, names)
    if not named:
        return None
    known = store.session_of(tenant, named)
    if known is not None:
        return known
    return await read_anew(store, tenant, named)


async def read_anew(store: BudgetStore, tenant: str, named: str) -> Session:
    """Return a session as it is bound now, which the worker's copy is from then on."""
    try:
        return await store.read_session(tenant, named)
    except StoreError:
        return Session(named)
