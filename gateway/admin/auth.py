"""Who may: everything but health, metrics and the API's description needs the bearer token."""

import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.admin.answers import ApiError
from gateway.admin.parts import PARTS

API_PREFIX = "/admin/v1"


def require_token(public: frozenset[Handler]) -> Middleware:
    """Return a middleware that asks for the token unless a `public` handler answers.

    It asks before it tells that there is nothing at a place below the API's prefix.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _is_private(request, public) and not _has_token(request):
            raise ApiError(
                401,
                "invalid_token",
                "The admin token is missing or wrong. Remedy: send `Authorization: Bearer <token>` "
                "with the token of the setting admin.token, else of the file admin-token in the "
                "state folder.",
                headers={"WWW-Authenticate": 'Bearer realm="tollgate"'},
            )
        return await handler(request)

    return middleware


def _is_private(request: web.Request, public: frozenset[Handler]) -> bool:
    match = request.match_info
    if match.http_exception is None:
        return match.handler not in public
    return request.path == API_PREFIX or request.path.startswith(f"{API_PREFIX}/")


def _has_token(request: web.Request) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    token = request.app[PARTS].token
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode(errors="surrogateescape"), token.encode()
    )
