"""Upstreams by name, behind the port."""

import asyncio

import pytest

from gateway.core.configuration import UpstreamSettings
from gateway.core.errors import InvalidConfigError, UpstreamError
from gateway.ports import Exchange, ResponseSink, Upstreams
from gateway.upstream.providers import Providers
from tests.upstream.cases import head
from tests.upstream.scripted import HELLO, HELLO_EVENTS, Notes, answers, provider, silence


def providers(**urls: str) -> Providers:
    settings = {name: UpstreamSettings(url) for name, url in urls.items()}
    return Providers(settings, asyncio.get_running_loop())


async def call(upstreams: Upstreams, name: str) -> Notes:
    notes = Notes()
    sink: ResponseSink = notes
    exchange: Exchange = await upstreams.connect(name, sink)
    exchange.send(b"POST", b"/", [], b"{}")
    await notes.over()
    return notes


async def test_each_name_leads_to_its_own_origin() -> None:
    async with provider(answers(HELLO)) as acme, provider(answers(head(status=204))) as umbrella:
        upstreams = providers(acme=acme.url, umbrella=umbrella.url)
        assert (await call(upstreams, "acme")).events == HELLO_EVENTS
        assert (await call(upstreams, "umbrella")).events[0][1] == 204
        assert upstreams.has("acme")
        assert not upstreams.has("other")
        assert upstreams.settings("umbrella").base_url == umbrella.url
        await upstreams.close(0)


async def test_an_unknown_name_is_the_callers_mistake() -> None:
    upstreams = providers()
    with pytest.raises(KeyError):
        await upstreams.connect("other", Notes())
    with pytest.raises(KeyError):
        upstreams.settings("other")
    await upstreams.close(0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_relayed_and_not_followed(status: int) -> None:
    async with provider(answers(HELLO)) as elsewhere:
        redirect = head(f"Location: {elsewhere.url}/", "Content-Length: 0", status=status)
        async with provider(answers(redirect)) as acme:
            upstreams = providers(acme=acme.url)
            notes = await call(upstreams, "acme")
            assert notes.events[0][1] == status
            assert elsewhere.connections == 0
            await upstreams.close(0)


async def test_open_exchanges_are_counted_over_all() -> None:
    async with provider(silence) as acme, provider(answers(HELLO)) as umbrella:
        upstreams = providers(acme=acme.url, umbrella=umbrella.url)
        assert upstreams.open_exchanges == 0
        held = [await upstreams.connect(name, Notes()) for name in ("acme", "acme", "umbrella")]
        assert upstreams.open_exchanges == 3
        for exchange in held:
            exchange.cancel()
        assert upstreams.open_exchanges == 0
        await upstreams.close(0)


async def test_close_drains_all_at_the_same_time() -> None:
    async with provider(silence) as acme, provider(silence) as umbrella:
        upstreams = providers(acme=acme.url, umbrella=umbrella.url)
        sinks = [Notes(), Notes()]
        for name, sink in zip(("acme", "umbrella"), sinks, strict=True):
            (await upstreams.connect(name, sink)).send(b"POST", b"/", [], b"")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await upstreams.close(0.3)
        assert loop.time() - began < 0.55
        for sink in sinks:
            assert sink.events == [("broken", "upstream_broken")]
        with pytest.raises(UpstreamError):
            await upstreams.connect("acme", Notes())


async def test_the_faults_of_all_upstreams_are_named_together() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        providers(a="ftp://h", good="http://h", b="https://h/?x")
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "upstreams.a.base_url",
        "upstreams.b.base_url",
    ]
