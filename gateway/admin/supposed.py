"""What is asked without a call, by the rules that a call would meet: the dry run and the gate."""

from dataclasses import replace

from gateway.admin.answers import ApiError
from gateway.admin.parts import AdminParts
from gateway.core.configuration import Rules
from gateway.core.enforcement import Switch
from gateway.core.estimate import LearnedOutput
from gateway.core.keys import GatewayKey
from gateway.planner import Planner
from gateway.store.enforcement import read_switch
from gateway.store.key_store import KeyStore
from gateway.store.limits import server_ms


async def planner_now(parts: AdminParts, rules: Rules) -> Planner:
    """Return a planner under `rules` and the switches as they are. Raises StoreError."""
    switch = Switch(await read_switch(parts.connection, parts.names))
    plane = replace(parts.plane, tenant=parts.names.tenant)
    return Planner(plane, rules, LearnedOutput(), switch=switch)


async def paying_key(parts: AdminParts, key_id: str | None) -> GatewayKey | None:
    """Return the key that is said to pay, None if none is.

    Raises ApiError (`unknown_key`) for one that is not there or no good, StoreError.
    """
    if key_id is None:
        return None
    key = await KeyStore(parts.connection).read(key_id)
    if key is None or key.tenant != parts.names.tenant:
        problem = f"There is no gateway key {key_id}."
    elif not key.is_good(await server_ms(parts.connection)):
        problem = f"The gateway key {key_id} is revoked or has expired."
    else:
        return key
    remedy = "Remedy: take a good one of those that GET /admin/v1/keys lists."
    raise ApiError(422, "unknown_key", f"{problem} {remedy}", field="key")
