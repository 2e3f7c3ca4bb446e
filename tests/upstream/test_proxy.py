"""Proxies: which one the environment names, tunnels, the absolute form, proxies that refuse."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from gateway.core.configuration import UpstreamSettings
from gateway.core.errors import InvalidConfigError, UpstreamError
from gateway.settings import data_plane, load_settings
from gateway.upstream.pool import Pool
from gateway.upstream.proxy import environment_proxy, is_exempt, parse_proxy
from tests.upstream.scripted import (
    HELLO,
    HELLO_EVENTS,
    Notes,
    Peer,
    Script,
    answers,
    provider,
)

MakePool = Callable[..., Pool]

BASIC = b"Proxy-Authorization: Basic dXNlcjpwQHNz"  # user:p@ss


@pytest.mark.parametrize(
    ("no_proxy", "exempt", "host", "port"),
    [
        ("*", True, "api.example.com", 443),
        ("", False, "api.example.com", 443),
        ("api.example.com", True, "api.example.com", 443),
        ("EXAMPLE.com", True, "api.example.com", 443),
        ("example.com", False, "badexample.com", 443),
        (".example.com", True, "api.example.com", 443),
        (".example.com", False, "example.com", 443),
        ("*.example.com", True, "api.example.com", 443),
        ("api.example.com:443", True, "api.example.com", 443),
        ("api.example.com:8443", False, "api.example.com", 443),
        ("a, b ,api.example.com", True, "api.example.com", 443),
        ("a b api.example.com", True, "api.example.com", 443),
        ("10.0.0.0/8", True, "10.1.2.3", 443),
        ("10.0.0.0/8", False, "11.1.2.3", 443),
        ("10.0.0.0/8", False, "api.example.com", 443),
        ("10.0.0.0/x", False, "10.1.2.3", 443),
        ("10.1.2.3", True, "10.1.2.3", 443),
        ("10.1.2.3:80", False, "10.1.2.3", 443),
        ("0.1.2.3", False, "10.1.2.3", 443),
        ("fd00::/8", True, "fd12::1", 443),
        ("fd12:0::1", True, "fd12::1", 443),
        ("[fd12::1]:443", True, "fd12::1", 443),
        ("[fd12::1]:80", False, "fd12::1", 443),
        (",", False, "api.example.com", 443),
        (".", False, "api.example.com", 443),
    ],
)
def test_forms_of_no_proxy(no_proxy: str, exempt: bool, host: str, port: int) -> None:
    assert is_exempt(no_proxy, host, port) is exempt


def test_the_environment_names_a_proxy_by_scheme() -> None:
    environ = {"HTTPS_PROXY": "http://s:1", "HTTP_PROXY": "http://p:2", "NO_PROXY": "no.example"}
    assert environment_proxy(environ, "https://api.example/v") == "http://s:1"
    assert environment_proxy(environ, "http://api.example") == "http://p:2"
    assert environment_proxy(environ, "https://no.example") == ""
    assert environment_proxy({}, "https://api.example") == ""
    assert environment_proxy({**environ, "https_proxy": "low:3"}, "https://a") == "low:3"
    assert environment_proxy({**environ, "no_proxy": "*"}, "https://api.example") == ""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]", "127.9.9.9"])
def test_loopback_is_never_reached_through_it(host: str) -> None:
    assert environment_proxy({"HTTP_PROXY": "http://p:2"}, f"http://{host}") == ""


@pytest.mark.parametrize(
    "url", ["https://u:secret@p", "socks5://u:secret@p", "http://u:secret@p/x", "http://u:secret@"]
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        environment_proxy({"HTTPS_PROXY": url}, "https://api.example")
    [fault] = caught.value.faults
    assert fault.startswith("HTTPS_PROXY: ")
    assert "secret" not in fault
    assert "Remedy: " in fault


def test_credentials_are_in_no_representation() -> None:
    proxy = parse_proxy("proxy", "http://user:p%40ss@[::1]:3128/")
    assert (proxy.host, proxy.port) == ("::1", 3128)
    assert BASIC.endswith(proxy.authorization)
    assert str(proxy) == "[::1]:3128"
    assert "dXNlc" not in repr(proxy)
    assert "p%40ss" not in repr(UpstreamSettings("http://a", proxy_url="http://u:p%40ss@h"))


@pytest.mark.parametrize(
    ("setting", "used"), [("env", "http://p:2"), ("none", ""), ("http://q:3", "http://q:3")]
)
def test_an_upstream_may_say_otherwise(setting: str, used: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"upstreams: {{openai: {{proxy: '{setting}'}}}}\n")
    plane = data_plane(load_settings(file, {}), "unix:///s", lambda _: "http://p:2")
    assert plane.upstreams["openai"].proxy_url == used


def tunnel(
    refusal: bytes = b"", greeting: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
) -> Script:
    """Take one CONNECT, refuse it or carry bytes both ways to where the test says."""

    async def play(peer: Peer) -> None:
        request = await peer.request()
        if refusal:
            peer.write(refusal)
            return
        authority = request.split(b" ")[1].decode()
        port = int(authority.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peer.write(greeting)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)

        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(pump(peer._reader, writer))
                pumps.create_task(pump(reader, peer.writer))
        finally:
            writer.close()

    return play


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def server_tls(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


async def call(pool: Pool) -> Notes:
    exchange = await pool.connect(notes := Notes())
    exchange.send(b"POST", b"/v1/x", [], b"hi")
    await notes.over()
    return notes


@pytest.mark.parametrize("credentials", ["", "user:p%40ss@"])
async def test_a_tunnel_to_an_https_origin(
    credentials: str, ca: trustme.CA, ca_file: str, make_pool: MakePool
) -> None:
    """The name is the proxy's to resolve; the certificate is checked for the provider's name."""
    async with (
        provider(answers(HELLO), tls=server_tls(ca, "api.example")) as acme,
        provider(tunnel()) as proxy,
    ):
        pool = make_pool(
            f"https://api.example:{acme.port}",
            ca_file=ca_file,
            proxy_url=f"http://{credentials}127.0.0.1:{proxy.port}",
        )
        for _ in range(2):
            assert (await call(pool)).events == HELLO_EVENTS
        [[connect]] = proxy.requests  # the second call was on the same connection
        authority = f"api.example:{acme.port}".encode()
        assert connect.startswith(b"CONNECT " + authority + b" HTTP/1.1\r\nHost: " + authority)
        assert (BASIC in connect) is bool(credentials)
        assert acme.requests[0][0].startswith(b"POST /v1/x HTTP/1.1\r\n")
        assert b"Proxy-" not in acme.requests[0][0]
        await pool.close(0)


async def test_a_tunnel_to_somebody_else_is_noticed(
    ca: trustme.CA, ca_file: str, make_pool: MakePool
) -> None:
    async with (
        provider(answers(HELLO), tls=server_tls(ca, "evil.example")) as evil,
        provider(tunnel()) as proxy,
    ):
        pool = make_pool(f"https://api.example:{evil.port}", ca_file=ca_file, proxy_url=proxy.url)
        with pytest.raises(UpstreamError, match="certificate not accepted") as caught:
            await pool.connect(Notes())
        assert not caught.value.sent
        assert not any(evil.requests)


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n", "it answered 407"),
        (b"HTTP/1.0 503\r\n\r\n", "it answered 503"),
        (b"SSH-2.0-hello\r\n\r\n", "its answer is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "it sent more than its answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "its answer has no end"),
        (b"HTTP/1.1 200 OK\r\n", "it closed the connection"),
    ],
)
async def test_a_proxy_that_does_not_let_us_through(
    refusal: bytes, why: str, make_pool: MakePool
) -> None:
    async with provider(tunnel(refusal)) as proxy:
        url = f"http://user:secret@127.0.0.1:{proxy.port}"
        pool = make_pool("https://api.example", proxy_url=url)
        with pytest.raises(UpstreamError) as caught:
            await pool.connect(Notes())
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert f"no way through the proxy 127.0.0.1:{proxy.port}: {why}" in caught.value.message
    assert "secret" not in caught.value.message
    assert pool.open_exchanges == 0


async def test_an_http_origin_is_asked_for_in_absolute_form(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as proxy:
        url = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        pool = make_pool("http://api.example:81/base", proxy_url=url)
        assert (await call(pool)).events == HELLO_EVENTS
        [[request]] = proxy.requests
    assert request.startswith(b"POST http://api.example:81/base/v1/x HTTP/1.1\r\n")
    assert b"\r\nHost: api.example:81\r\n" in request
    assert BASIC + b"\r\n" in request


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_blocked_address_is_blocked_through_a_proxy_too(
    scheme: str, make_pool: MakePool
) -> None:
    async with provider(answers(HELLO)) as proxy:
        pool = make_pool(f"{scheme}://169.254.169.254", proxy_url=proxy.url)
        with pytest.raises(UpstreamError, match="blocked"):
            await pool.connect(Notes())
        assert proxy.connections == 0


# The queue


async def test_a_full_queue_is_busy_at_once(make_pool: MakePool) -> None:
    async with provider(answers(HELLO)) as acme:
        pool = make_pool(acme.url, max_connections=1, max_waiting=1, queue_timeout_ms=40)
        held = await pool.connect(Notes())
        waiting = asyncio.ensure_future(pool.connect(Notes()))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="in use and 1 calls wait") as caught:
            await pool.connect(Notes())
        assert (caught.value.code, caught.value.sent) == ("upstream_busy", False)
        with pytest.raises(UpstreamError, match="in use for 40 ms"):
            await waiting
        held.cancel()
