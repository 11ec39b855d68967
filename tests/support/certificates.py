"""Certificates for servers on this machine, by authorities that nobody knows."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import trustme


def self_signed(*, name: str = "127.0.0.1", expired: bool = False, authority: Path | None = None) -> ssl.SSLContext:
    """A server's TLS with a certificate for ``name``; its authority's own certificate is written to a file."""
    ca = trustme.CA()
    until = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1) if expired else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, not_after=until).configure_cert(context)
    if authority is not None:
        ca.cert_pem.write_to_path(authority)
    return context
