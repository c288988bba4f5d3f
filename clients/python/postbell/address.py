"""Where a broker is."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import Invalid
from .limits import PORT_DEFAULT


@dataclass(frozen=True)
class Address:
    """A host as a certificate has it, a port, and whether TLS is spoken there."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """``tcp://host:port`` or ``tcp+tls://host:port``; without a scheme it is the former."""
    tls = url.startswith("tcp+tls://")
    rest = url.removeprefix("tcp+tls://" if tls else "tcp://").rstrip("/")
    fault = Invalid(f"the broker's URL must look like tcp://host:7440 or tcp+tls://host:7440, not {url!r}")
    if not rest or any(mark in rest for mark in "/@?# "):
        raise fault
    host, port = rest, str(PORT_DEFAULT)
    # A colon within brackets is a part of an IPv6 address.
    if rest.rfind(":") > rest.rfind("]"):
        host, _, port = rest.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise fault
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host:
        raise fault
    return Address(host, int(port), tls)
