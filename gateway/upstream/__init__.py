"""The provider side of a call.

    providers   the port: upstreams by name, one pool each
    pool        idle connections, the limit and its queue, deadlines, shutting down
    http1       one connection, and a call's hold on it
    websocket   a WebSocket: its handshake and the provider's end
    answer      bytes of an answer in; head, body and end out
    origin      base URL in; request heads out
    dialler     opens connections: resolves, checks, tries each address, goes through a proxy
    addresses   what a name resolves to, and which addresses are blocked
    proxy       which proxy the environment wants, and what is said to it

`answer`, `origin` and `proxy` do no I/O. Errors are `UpstreamError`s of the codes
`upstream_unreachable`, `upstream_busy`, `upstream_timeout`, `upstream_protocol_error` and
`upstream_broken`; BadCall `invalid_header` refuses a request that cannot be put on the wire.
"""
