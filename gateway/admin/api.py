"""The admin plane's application: the route table behind tokens and one shape of errors."""

import asyncio
import re
from typing import Final

from aiohttp import web

from gateway.admin.answers import shape_errors
from gateway.admin.auth import require_role
from gateway.admin.body import MOST_BODY_BYTES
from gateway.admin.endpoint import Endpoint
from gateway.admin.endpoints import ENDPOINTS
from gateway.admin.live import close_feed
from gateway.admin.openapi import document
from gateway.admin.parts import PARTS, STORE_WAIT_S, AdminParts, Health
from gateway.admin.roles import main_access
from gateway.admin.statistics import ONE_AT_A_TIME
from gateway.admin.statistics_endpoints import STATISTICS_ENDPOINTS
from gateway.core.errors import InvalidConfigError

__all__ = ["ALL_ENDPOINTS", "AdminParts", "Health", "build_admin"]

_STORE_WAIT_S = 5.0


async def get_openapi(request: web.Request) -> web.Response:
    """Return the API's description."""
    version = request.app[PARTS].health().version
    return web.json_response(document(ALL_ENDPOINTS, version))


ALL_ENDPOINTS: Final = (
    *ENDPOINTS,
    *STATISTICS_ENDPOINTS,
    Endpoint(
        "GET",
        "/admin/v1/openapi.json",
        get_openapi,
        "getOpenApi",
        "This description, OpenAPI 3.1",
        public=True,
    ),
)


def build_admin(parts: AdminParts, store_wait_s: float = _STORE_WAIT_S) -> web.Application:
    """Return the application; what it asks of the store is given up after `store_wait_s`.

    Raises InvalidConfigError without a token: an empty one would let everybody in.
    """
    if not parts.token:
        raise InvalidConfigError(["admin.token: is empty. Remedy: set one, or leave the key out."])
    least = {
        endpoint.handler: None if endpoint.public else endpoint.least_role
        for endpoint in ALL_ENDPOINTS
    }
    accesses = (main_access(parts.token), *parts.accesses)
    app = web.Application(
        middlewares=[shape_errors, require_role(least, accesses)], client_max_size=MOST_BODY_BYTES
    )
    app[PARTS] = parts
    app[STORE_WAIT_S] = store_wait_s
    app[ONE_AT_A_TIME] = asyncio.Lock()
    app.on_shutdown.append(close_feed)
    for endpoint in ALL_ENDPOINTS:
        # Any text may stand for an id, so that what cannot be one is answered with the reason.
        path = re.sub(r"{(\w+)}", r"{\1:[^/]+}", endpoint.path)
        app.router.add_route(endpoint.method, path, endpoint.handler)
        if endpoint.method == "GET":
            app.router.add_head(path, endpoint.handler)
    return app
