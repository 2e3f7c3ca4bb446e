"""One route of the admin plane: what is served, and what the API's description says of it.

A noun's routes stand in a tuple beside its handlers, or in `endpoints.py`, which collects them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp.typedefs import Handler
from pydantic import BaseModel

from gateway.admin.roles import Role


@dataclass(frozen=True)
class Endpoint:
    """One route. Without a `body` model the answer is described by its media type alone.

    `errors` are error codes by status; `also` are other answers; `also_as` is another media type in
    which it tells the same as text. `takes` is the model of the body
    that it takes; `takes_override` marks the route that takes one of several. A `public` one needs
    no token, any other a token of `least_role` or above: if `role` does not say, `viewer` to read
    and `operator` to change. `uses_store` False: it answers without the budget store, too.
    """

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    body: type[BaseModel] | None = None
    status: HTTPStatus = HTTPStatus.OK
    media_type: str = "application/json"
    parameters: tuple[Mapping[str, object], ...] = ()
    errors: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    also: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    takes: type[BaseModel] | None = None
    takes_override: bool = False
    also_as: str = ""
    public: bool = False
    role: Role | None = None
    uses_store: bool = True

    def __post_init__(self) -> None:
        """Add the refusal of those whose role is not enough."""
        if not self.public and self.least_role is not Role.VIEWER:
            object.__setattr__(self, "errors", {**self.errors, 403: ("forbidden",)})

    @property
    def least_role(self) -> Role:
        """Return the role that a token needs here."""
        return self.role or (Role.VIEWER if self.method == "GET" else Role.OPERATOR)


WITHOUT_STORE: Mapping[int, tuple[str, ...]] = {401: ("invalid_token",), 500: ("internal_error",)}
EVERYWHERE: Mapping[int, tuple[str, ...]] = {**WITHOUT_STORE, 503: ("budget_store_unavailable",)}
BODY_ERRORS: Mapping[int, tuple[str, ...]] = {
    400: ("invalid_json", "invalid_body"),
    408: ("request_timeout",),
    413: ("body_too_large",),
    415: ("unsupported_encoding",),
    422: ("invalid_request",),
}
