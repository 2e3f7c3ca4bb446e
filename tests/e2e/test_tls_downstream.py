"""The data plane over TLS, with the official SDK; files that are of no use are told at start."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme

from gateway.control import TlsFiles
from loadtest.fake_provider import FakeProvider
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class TlsGateway(Gateway):
    async def start(self) -> None:
        await self.launch()
        self.banner = await until(self._whole_banner, "the banner")
        line = next(line for line in self.banner.splitlines() if "OPENAI_BASE_URL=" in line)
        self.url = line.partition("=")[2].removesuffix("/v1")


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(ca: trustme.CA, tmp_path: Path) -> TlsFiles:
    made = ca.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for piece in made.cert_chain_pems:
        piece.write_to_path(str(cert), append=True)
    made.private_key_pem.write_to_path(str(key))
    return TlsFiles(str(cert), str(key))


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


async def test_the_sdk_over_tls(
    ca: trustme.CA, files: TlsFiles, provider: FakeProvider, tmp_path: Path, task: str
) -> None:
    variables = {
        "TOLLGATE_SERVER__TLS_CERT_FILE": files.cert,
        "TOLLGATE_SERVER__TLS_KEY_FILE": files.key,
    }
    async with TlsGateway(tmp_path / "state", provider.base_url, **variables) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        async with (
            httpx.AsyncClient(verify=trusting(ca), trust_env=False, timeout=60) as transport,
            openai.AsyncOpenAI(
                base_url=f"{gateway.url}/v1", api_key="k", http_client=transport, max_retries=0
            ) as client,
        ):
            tagged = {"X-Task-Id": task}
            answer = await client.chat.completions.create(**CHAT, extra_headers=tagged)
            assert answer.choices[0].message.content
            stream = await client.chat.completions.create(**CHAT, stream=True, extra_headers=tagged)
            assert [chunk async for chunk in stream]
        await gateway.settled(task, 2)
        host, port = gateway.url.removeprefix("https://").split(":")
        context = trusting(ca)
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()
        async with httpx.AsyncClient(trust_env=False, timeout=60) as plain:
            with pytest.raises(httpx.HTTPError):
                await plain.get(gateway.url.replace("https", "http"))


async def test_one_file_without_the_other_is_a_fault(files: TlsFiles, tmp_path: Path) -> None:
    variables = {"TOLLGATE_SERVER__TLS_CERT_FILE": files.cert}
    gateway = Gateway(tmp_path / "state", "http://127.0.0.1:1", **variables)
    await gateway.launch()
    assert await gateway.process.wait() == 1
    assert "server.tls_key_file: is missing. Remedy: " in gateway.log_text
