"""Step 2 where nothing is tracked: a call is read for its route and its key's bounds only."""

from msgspec import structs

from gateway.call import Call, read_call
from gateway.core.errors import BadCall
from gateway.core.routing import Routing
from gateway.trace import Trace


def read_untracked(trace: Trace, routing: Routing) -> Call:
    """Return a call as far as it can be read: what cannot be is the provider's business.

    Raises BadCall where the key bounds the models, and the call's cannot be told.
    """
    if trace.route is None:
        raise ValueError("a call has a route")
    key = trace.key
    try:
        return read_call(trace.call_id, trace.request, trace.tags, trace.route, routing, key)
    except BadCall:
        if key is not None and key.models:
            raise
        return Call(trace.call_id, trace.request, trace.tags, trace.route, key=key)


def unread(call: Call) -> Call:
    """Return a call as one that nobody meters."""
    return structs.replace(call, asked=None, wire=None)
