"""What a request must be before anything of it is read: no web page may reach a gateway, by rebinding or by a form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from duet_sdk.gateway.errors import NOT_AGAIN, Refused

if TYPE_CHECKING:
    from duet_sdk.gateway_policy import GatewayPolicy

_PORT: Final = re.compile(r":\d{1,5}$")


def is_loopback(host: str) -> bool:
    """Whether a name or an address stands for this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guards:
    """Checks ``Host`` and ``Origin``.

    Args:
        policy: without keys and hosts, loopback names alone pass.
    """

    def __init__(self, policy: GatewayPolicy) -> None:
        self._hosts = frozenset(host.lower() for host in policy.hosts)
        self._any = "*" in policy.hosts or (policy.has_keys and not policy.hosts)
        self._origins = frozenset(policy.origins)

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a request pass.

        Raises:
            Refused: 403, it comes from a web page that is not listed; 421, it names another host.
        """
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._origins:
            raise Refused(403, "origin", "web pages may not ask here", kind="permission_error", headers=NOT_AGAIN)
        if self._any:
            return
        host = _PORT.sub("", headers.get(b"host", b"").decode("latin-1")).lower()
        if not (host in self._hosts if self._hosts else is_loopback(host)):
            raise Refused(421, "host", "this gateway has another name", headers=NOT_AGAIN)

    @staticmethod
    def check_json(headers: Mapping[bytes, bytes]) -> None:
        """Let a body pass; a form on a web page can send any other kind unasked.

        Compressed bodies are not unpacked: few bytes could become many, and no client compresses unless told to.

        Raises:
            Refused: 415.
        """
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding not in (b"", b"identity"):
            plain = (b"accept-encoding", b"identity")  # RFC 9110, 12.5.3: what would be taken
            raise Refused(415, "content_encoding", "send the body uncompressed", headers=(plain, *NOT_AGAIN))
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise Refused(415, "content_type", "send content-type: application/json", headers=NOT_AGAIN)
