"""Whom the commands of this machine believe over TLS: one rule for all of them.

The authorities in `--ca-file` and no others, else those of the system (where OpenSSL has them, or
`SSL_CERT_FILE`, as for the servers). There is no way to believe everybody.
"""

import ssl
from pathlib import Path


def tls_context(ca_file: Path | None, *urls: str) -> ssl.SSLContext:
    """For clients of these URLs.

    Raises:
        OSError: The file cannot be read, or is no PEM of certificates.
    """
    if not any(url.startswith("https:") for url in urls):
        # It verifies like any other and believes nobody: reading the system's authorities takes
        # longer than a local call.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context(cafile=ca_file)


def require_certificates(path: Path) -> Path:
    """A file for `tls_context`.

    Raises:
        ValueError: It is none.
    """
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        is_read = isinstance(error, ssl.SSLError)
        reason = "it holds no certificates (PEM)" if is_read else error.strerror
        raise ValueError(f"{path}: {reason}") from error
    return path
