"""Store URLs: what is understood, and that no error or text repeats a password."""

import ssl
from pathlib import Path

import pytest
import trustme

from gateway.core.errors import InvalidConfigError
from gateway.store.address import StoreAddress, parse_store_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", StoreAddress("cache")),
        ("redis://cache:7000/3", StoreAddress("cache", 7000, database=3)),
        ("redis://cache?db=4", StoreAddress("cache", database=4)),
        ("redis://:pa%40ss@cache/", StoreAddress("cache", password="pa@ss")),
        ("redis://me:p%3Aw@[::1]:1", StoreAddress("::1", 1, username="me", password="p:w")),
        ("unix:///run/valkey.sock", StoreAddress(path="/run/valkey.sock")),
        ("unix:///a%20b/s?db=2", StoreAddress(path="/a b/s", database=2)),
        ("unix://me:pw@/s", StoreAddress(path="/s", username="me", password="pw")),
    ],
)
def test_urls_that_are_understood(url: str, address: StoreAddress) -> None:
    """Parts are percent-decoded; the port is 6379 and the database 0 unless given."""
    assert parse_store_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://cache",
        "redis://",
        "redis:///0",
        "unix://",
        "unix://run/valkey.sock",
        "redis+cluster://cache",
        "redis://cache:port",
        "redis://cache:99999",
        "redis://cache/first",
        "redis://[::1",
        "unix:///s?db=x",
        "rediss://cache?ca_file=/does/not/exist.pem",
    ],
)
def test_urls_that_are_not(url: str) -> None:
    """The error names the setting and what to do."""
    with pytest.raises(InvalidConfigError, match=r"redis\.url: .* Remedy: "):
        parse_store_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:se/cret@cache:1/0",
        "redis://me:12/cret@cache/0",
        "redis://:secret@cache:secret",
        "redis://:secret@cache/secret",
        "redis://me:se[cret@cache",
        "redis://me:se\u2100cret@cache",
        "http://me:secret@cache",
        "unix://me:secret@",
        "rediss://:secret@cache?ca_file=/does/not/exist.pem",
    ],
)
def test_no_error_repeats_a_password(url: str) -> None:
    """Not even a part of one that was not percent-encoded as it should be."""
    with pytest.raises(InvalidConfigError) as error:
        parse_store_url(url)
    assert "cret" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_the_text_of_an_address_has_no_credentials() -> None:
    """It reaches logs."""
    address = parse_store_url("rediss://me:secret@cache:1/2")
    assert repr(address) == "StoreAddress(cache:1, db 2, TLS)"
    assert repr(parse_store_url("unix://:secret@/s")) == "StoreAddress(/s, db 0)"


def test_rediss_verifies_the_server(tmp_path: Path) -> None:
    """By the system's certificates, or by those of `ca_file`."""
    by_system = parse_store_url("rediss://cache").tls
    assert by_system is not None
    assert by_system.verify_mode is ssl.CERT_REQUIRED
    assert by_system.check_hostname
    pem = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(pem))
    own = parse_store_url(f"rediss://cache?ca_file={pem}").tls
    assert own is not None
    assert len(own.get_ca_certs()) == 1
    assert parse_store_url("redis://cache").tls is None
    pem.write_text("no certificate")
    with pytest.raises(InvalidConfigError, match="ca_file"):
        parse_store_url(f"rediss://cache?ca_file={pem}")
