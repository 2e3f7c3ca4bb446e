"""Step 2, read: one request, understood. The body's bytes stay as they came.

No I/O. What a call is that asks for another model instead stands here, too.
"""

from msgspec import Struct, structs

from gateway.core.call_facts import MOST_TEXT
from gateway.core.dialects.openai_responses import OPENAI_RESPONSES
from gateway.core.dialects.table import WIRE_FORMATS
from gateway.core.dialects.wire_format import ModelRequest, WireFormat
from gateway.core.errors import BadCall
from gateway.core.headers import RULES
from gateway.core.identity import Dialect, Route, Tags, deployments_of
from gateway.core.json_edit import member_spans
from gateway.core.keys import GatewayKey
from gateway.core.match import DEFAULT_TENANT
from gateway.core.model_rename import can_rename, renamed
from gateway.core.multipart import is_form
from gateway.core.routing import Routing
from gateway.core.unmetered import is_later_answer
from gateway.ports import Request

UNTAGGED_TASK = "-anonymous"
_NO_ROUTING = Routing({})


class Call(Struct, frozen=True):
    """One request, understood. `asked` is None on routes that are not metered.

    There `wire`, if it is not None, reads answers that were asked for before.

    `key` is the gateway key that pays, None where calls need none; `tenant` is the gateway's.
    `model_asked` is the model that
    the client named where another one is served instead, else ''.
    """

    call_id: str
    request: Request
    tags: Tags
    route: Route
    asked: ModelRequest | None = None
    wire: WireFormat | None = None
    key: GatewayKey | None = None
    model_asked: str = ""
    tenant: str = DEFAULT_TENANT

    @property
    def task(self) -> str:
        """Return the task's id, or the bucket of its key's calls that name none."""
        if self.tags.task is not None:
            return self.tags.task
        return f"-{self.key.id}" if self.key is not None else UNTAGGED_TASK

    @property
    def model(self) -> str | None:
        """Return the model that it names, None on routes that are not metered."""
        return self.asked.model if self.asked is not None else None

    @property
    def models(self) -> tuple[str | None, ...]:
        """Return every name of a model that it goes by: Azure's path counts, not the body."""
        named = deployments_of(self.route.target) if self.asked is not None else ()
        return (*named, self.model) if self.model or not named else named

    @property
    def phase_tag(self) -> str:
        """Return the phase that the call names, or `-`: what its output is learnt by."""
        return self.tags.phase or "-"

    @property
    def is_untagged(self) -> bool:
        """Return whether the call names no task."""
        return self.tags.task is None


def read_call(
    call_id: str,
    request: Request,
    tags: Tags,
    route: Route,
    routing: Routing = _NO_ROUTING,
    key: GatewayKey | None = None,
    tenant: str = DEFAULT_TENANT,
) -> Call:
    """Return what a budget needs to know of a request.

    The model's name may say where the call goes.
    Raises BadCall for a metered request that cannot be read.
    """
    wire = WIRE_FORMATS.get(route.dialect)
    if wire is None or request.method != b"POST":
        later = OPENAI_RESPONSES if is_later_answer(route.target.partition(b"?")[0]) else None
        return Call(call_id, request, tags, route, wire=later, key=key, tenant=tenant)
    for value in [v for name, v in request.headers if RULES[name].lower == b"content-encoding"]:
        if value.lower() != b"identity":
            raise BadCall(
                "unsupported_encoding",
                "Content-Encoding: send the body unencoded, so that it can be budgeted.",
            )
    asked = _read_request(wire, request, route)
    route = routing.by_model(route, asked.model)
    return Call(call_id, request, tags, route, asked, wire, key, tenant=tenant)


def _read_request(wire: WireFormat, request: Request, route: Route) -> ModelRequest:
    """Return a request's facts, from a form where the dialect takes one."""
    if wire.read_form is not None:
        kinds = [v for name, v in request.headers if RULES[name].lower == b"content-type"]
        if len(kinds) == 1 and is_form(kinds[0]):
            return wire.read_form(request.body, kinds[0])
    return wire.read(request.body, route.target)


def with_cheaper_model(call: Call, model: str) -> Call | None:
    """Return the call as it asks for `model` instead; None if it cannot, or may not.

    It stays with its upstream.
    """
    asked, route, request = call.asked, call.route, call.request
    if asked is None or not takes_model(call, model):
        return None
    found = renamed(route.dialect, route.target, request.body, model, in_body=bool(asked.model))
    if found is None:
        return None
    target, body = found
    return structs.replace(
        call,
        request=structs.replace(request, body=body),
        route=structs.replace(route, target=target),
        asked=structs.replace(asked, model=model),
        model_asked=next(name for name in call.models if name),
    )


def takes_model(call: Call, model: str) -> bool:
    """Return whether a call may ask for another model, and can; no edit is made for the answer.

    One time only: a stand-in gets none of its own. The gateway key must allow it, too.
    """
    if call.asked is None or call.model_asked or not _names_model(call):
        return False
    if call.key is not None and not call.key.allows_model(model):
        return False
    route, in_body = call.route, bool(call.asked.model)
    return can_rename(route.dialect, route.target, call.request.body, in_body=in_body)


def _names_model(call: Call) -> bool:
    """Return whether the model is the call's own to name: on a socket its event has to say it."""
    if call.request.method == b"POST":
        return True
    if call.route.dialect is not Dialect.OPENAI_RESPONSES:
        return False
    return any(name == "model" for name, _, _ in member_spans(call.request.body))


def path_label(target: bytes) -> str:
    """Return a target's path without its query, which may hold a key."""
    return target.partition(b"?")[0][:MOST_TEXT].decode("latin-1")
