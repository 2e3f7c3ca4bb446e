"""Who may: everything but health, metrics and the API's description needs a bearer token.

What a token is good for is its role; which one a route needs stands in the route table.
"""

from collections.abc import Iterable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from msgspec.structs import replace

from gateway.admin.answers import ApiError
from gateway.admin.roles import MAIN_TOKEN, AdminAccess, Role, find_access
from gateway.core.acts import Act

API_PREFIX = "/admin/v1"
_ACCESS = web.RequestKey("access", AdminAccess)


def require_role(
    least: Mapping[Handler, Role | None], accesses: Iterable[AdminAccess]
) -> Middleware:
    """Return a middleware that asks for a token of the handler's least role, None: of nobody.

    It asks for a token before it tells that there is nothing at a place below the API's prefix.
    """
    known = tuple(accesses)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _is_private(request, least):
            access = find_access(known, _token(request))
            if access is None:
                raise _unknown()
            _check_role(access, least.get(request.match_info.handler))
            request[_ACCESS] = access
        return await handler(request)

    return middleware


def own_token(request: web.Request) -> str | None:
    """Return the name of the token that the request came with; None for that of admin.token."""
    access = request.get(_ACCESS)
    return None if access is None or access.name == MAIN_TOKEN else access.name


def own_role(request: web.Request) -> Role:
    """Return the role of the token that the request came with."""
    access = request.get(_ACCESS)
    return Role.ADMIN if access is None else access.role


def told_by(request: web.Request, act: Act) -> Act:
    """Return the act with the name of the token it was done with, if that has one."""
    name = own_token(request)
    return act if name is None else replace(act, details={**act.details, "token": name})


def _is_private(request: web.Request, least: Mapping[Handler, Role | None]) -> bool:
    match = request.match_info
    if match.http_exception is None:
        return least.get(match.handler, Role.ADMIN) is not None
    return request.path == API_PREFIX or request.path.startswith(f"{API_PREFIX}/")


def _token(request: web.Request) -> bytes:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    return given.strip().encode(errors="surrogateescape") if is_bearer else b""


def _check_role(access: AdminAccess, least: Role | None) -> None:
    if least is None or access.role.may(least):
        return
    raise ApiError(
        403,
        "forbidden",
        f"The token {access.name} has the role {access.role.value}; this needs {least.value}. "
        f"Remedy: use a token whose role in admin.tokens is {least.value} or above.",
        role=access.role.value,
        needs=least.value,
    )


def _unknown() -> ApiError:
    return ApiError(
        401,
        "invalid_token",
        "The admin token is missing or wrong. Remedy: send `Authorization: Bearer <token>` "
        "with a token of the settings admin.token or admin.tokens, else of the file admin-token in "
        "the state folder.",
        headers={"WWW-Authenticate": 'Bearer realm="tollgate"'},
    )
