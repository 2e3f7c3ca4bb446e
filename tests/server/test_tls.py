"""The context for clients over TLS, and why two files may be of no use."""

import ssl
from pathlib import Path

import pytest
import trustme

from gateway.control import TlsFiles
from gateway.core.errors import TollgateError
from gateway.server.tls import server_tls


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


def test_tls_1_1_is_not_spoken(files: TlsFiles) -> None:
    assert server_tls(files).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no certificate", "cert.pem cannot be read (No such file or directory). Remedy: "),
        ("another key", "KEY_VALUES_MISMATCH"),
        ("no pem", "cannot be used"),
    ],
)
def test_files_that_are_of_no_use(fault: str, told: str, files: TlsFiles, ca: trustme.CA) -> None:
    if fault == "no certificate":
        Path(files.cert).unlink()
    elif fault == "another key":
        ca.issue_cert("127.0.0.1").private_key_pem.write_to_path(files.key)
    else:
        Path(files.cert).write_text("hello")
    with pytest.raises(TollgateError) as caught:
        server_tls(files)
    assert told in str(caught.value)
    assert files.cert in str(caught.value)
    assert "Remedy: " in str(caught.value)
