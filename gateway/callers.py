"""Step 1, identify: who calls, for which task and phase, to where; and whether that is allowed.

What a worker remembers of a key or a session may be old: before a call is turned away because of
it, it is read anew.
"""

from msgspec import structs

from gateway.call import Call
from gateway.core.configuration import DataPlane
from gateway.core.errors import BadCall, CallError, StoreError
from gateway.core.headers import Headers
from gateway.core.identity import Route, Tags, identify
from gateway.core.keys import (
    NO_KEY,
    GatewayKey,
    claims_critical,
    find_credential,
    forbidden,
    tags_under,
    tags_without_key,
)
from gateway.core.own_budget import asks_own_budget
from gateway.planner import Planner
from gateway.ports import Doors, TaskFacts
from gateway.session_lookup import look_up_session, read_anew
from gateway.trace import Trace


class Callers:
    """Who calls: keys, tags and session bindings. One a worker; it remembers nothing itself."""

    def __init__(self, plane: DataPlane, doors: Doors) -> None:
        self._plane = plane
        self._doors = doors

    async def identify(self, trace: Trace, planner: Planner) -> tuple[Tags, Route]:
        """Find out who pays, for which task and phase the call is made, and where it goes.

        What a key forbids is looked at again in the key as it is now: the worker's copy may be old.
        """
        try:
            return await self._identify(trace, planner)
        except BadCall as error:
            if trace.key is None or not error.code.startswith("forbidden_"):
                raise
            self._doors.keys.forget(trace.key.id)
            return await self._identify(trace, planner)

    async def _identify(self, trace: Trace, planner: Planner) -> tuple[Tags, Route]:
        request, key = trace.request, await self._authenticate(trace)
        tags, route = identify(request.target, request.headers)
        trace.tags, trace.route = tags, route
        if tags.task is None and self._plane.session_headers and self._plane.tracking:
            tags = await self._with_session(request.headers, tags, key)
        tags = await self._without_key(tags) if key is None else tags_under(key, tags)
        trace.tags = tags
        if tags.invalid and self._plane.tracking:
            first = tags.invalid[0]
            self._doors.recorder.event(
                "invalid_tag", "warning", call_id=trace.call_id, problem=first.message
            )
            if planner.enforces_tags:
                raise BadCall("invalid_tag", first.message)
        if asks_own_budget(request.method, route):
            return tags, route
        if not self._doors.upstreams.has(route.upstream):
            raise BadCall("unknown_upstream", f"There is no upstream named {route.upstream!r}.")
        if not route.target.startswith((b"/v1/", b"/v1beta/")) and not route.is_named:
            raise BadCall(
                "unknown_route", "Routes are /v1/..., /v1beta/..., or /u/<upstream>/... for others."
            )
        return tags, route

    async def _with_session(self, headers: Headers, tags: Tags, key: GatewayKey | None) -> Tags:
        """Return the tags of a call that names no task with the session it belongs to, if any."""
        store, plane = self._doors.store, self._plane
        session = await look_up_session(
            store, plane.tenant, plane.session_headers, headers, tags, key
        )
        return tags if session is None else structs.replace(tags, session=session)

    async def _without_key(self, tags: Tags) -> Tags:
        """Return the tags of a call that brings no key. Who claims to be critical is looked at."""
        if not claims_critical(tags):
            return tags_without_key(tags, keys_in_use=False)
        try:
            in_use = await self._doors.keys.are_in_use()
        except StoreError:
            in_use = True
        return tags_without_key(tags, keys_in_use=in_use)

    async def _authenticate(self, trace: Trace) -> GatewayKey | None:
        """Return the key that pays. Raises BadCall for one that is missing or proves nothing."""
        credential = find_credential(trace.request.headers)
        if credential is None:
            if self._plane.keys_required:
                raise BadCall("invalid_key", NO_KEY)
            return None
        try:
            trace.key = await self._doors.keys.key_of(credential)
        except StoreError as error:
            raise CallError(
                "budget_store_unavailable", "The gateway keys cannot be read; ask again shortly."
            ) from error
        return trace.key

    async def authorise(self, trace: Trace, call: Call, planner: Planner) -> Call:
        """Return the call if its key lets it go where it goes. Raises BadCall if it does not.

        Before a call is forbidden, its key is read anew: the worker's copy may be old.
        """
        if call.key is None or forbidden(call.key, call.route.upstream, *call.models) is None:
            return call
        return await self.as_of_today(trace, call, planner)

    async def authorise_unreserved(self, trace: Trace, call: Call, planner: Planner) -> Call:
        """Return a call that reserves nothing, if its key as it is now lets it go where it goes.

        No reserve would tell that the worker's copy is old: a key that was revoked through another
        gateway must not be good for one more call. Raises BadCall.
        """
        return call if call.key is None else await self.as_of_today(trace, call, planner)

    async def identify_anew(self, trace: Trace, planner: Planner) -> None:
        """Find out anew who calls, by the key and the session's binding as they are now."""
        if trace.key is not None:
            self._doors.keys.forget(trace.key.id)
        await self.identify(trace, planner)

    async def tagged_by_now(
        self, trace: Trace, call: Call, planner: Planner, facts: TaskFacts
    ) -> Call:
        """Return the call; before one is refused for want of a task, its session is read anew."""
        try:
            planner.mark_untagged(call, facts)
        except BadCall:
            if call.tags.session is not None:
                await read_anew(self._doors.store, self._plane.tenant, call.tags.session.id)
            return await self.as_of_today(trace, call, planner)
        return call

    async def as_of_today(
        self, trace: Trace, call: Call, planner: Planner, *, key_now: str = ""
    ) -> Call:
        """Return the call under its key and its session's binding as they are by now.

        `key_now` is the key as the store has just told it; without that it is read anew. Raises
        BadCall if it may not be made.
        """
        if key_now:
            self._doors.keys.learn(key_now)
            await self.identify(trace, planner)
        else:
            await self.identify_anew(trace, planner)
        trace.route, key = call.route, trace.key
        error = forbidden(key, call.route.upstream, *call.models) if key is not None else None
        if error is not None:
            raise error
        call = trace.call = structs.replace(call, tags=trace.tags, key=key)
        return call
