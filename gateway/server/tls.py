"""TLS towards clients: the context of two PEM files, or why they are of no use."""

import ssl
from pathlib import Path

from gateway.control import TlsFiles
from gateway.core.errors import TollgateError


def server_tls(files: TlsFiles) -> ssl.SSLContext:
    """Return the context for clients over TLS. Raises TollgateError, naming the file."""
    for key, file in (("cert", files.cert), ("key", files.key)):
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise TollgateError(
                f"server.tls_{key}_file: {file} cannot be read ({error.strerror}). Remedy: name a "
                "PEM file that the gateway's user may read."
            ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password here, an encrypted key would be asked for at the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise TollgateError(
            f"server.tls_cert_file {files.cert} and server.tls_key_file {files.key} cannot be used "
            f"({why}). Remedy: the first holds the certificate and its chain, the second its key, "
            "without a password; both as PEM."
        ) from None
    return context
