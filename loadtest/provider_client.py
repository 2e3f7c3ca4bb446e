"""What the fake provider says of itself, asked from outside its process."""

import http.client
import ssl

import msgspec

from loadtest.programs import Provider
from loadtest.provider_journal import Served, Totals

_WAIT_S = 30
_read_journal = msgspec.json.Decoder(list[Served]).decode
_read_totals = msgspec.json.Decoder(Totals).decode


def read_journal(provider: Provider) -> list[Served]:
    """Return an entry for every answer begun."""
    return _read_journal(_ask(provider, "GET", "/_journal"))


def forget_journal(provider: Provider) -> None:
    """Let the provider begin a new journal."""
    _ask(provider, "DELETE", "/_journal")


def read_totals(provider: Provider) -> Totals:
    """Return the sums over the model calls that it answered."""
    return _read_totals(_ask(provider, "GET", "/_totals"))


def _ask(provider: Provider, method: str, path: str) -> bytes:
    host, port = provider.address
    connection: http.client.HTTPConnection
    if provider.ca_file:
        trust = ssl.create_default_context(cafile=provider.ca_file)
        connection = http.client.HTTPSConnection(host, port, timeout=_WAIT_S, context=trust)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_WAIT_S)
    try:
        connection.request(method, path)
        return connection.getresponse().read()
    finally:
        connection.close()
