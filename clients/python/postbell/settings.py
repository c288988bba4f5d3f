"""How an agent is connected: what is given in code, else what the environment says."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .address import Address, parse_url
from .errors import Invalid
from .fields import Given, Unpack
from .limits import WINDOW_DEFAULT, WINDOW_MAX
from .tls import Trust
from .version import VERSION

#: The things that an agent can do, in the words of those who ask for them.
Capabilities = Sequence[Any] | Mapping[str, Any]

URL_DEFAULT = "tcp://127.0.0.1:7440"


@dataclass(frozen=True)
class Settings:
    """Checked: what cannot be connected with is refused before anything is tried."""

    agent: str
    token: str = field(repr=False)
    address: Address
    trust: Trust
    environment: str | None
    #: Where answers are sent to.
    instance: str
    #: Nobody else can have this instance's name: whoever takes over from us is ourselves.
    is_instance_ours: bool
    #: The group that it takes from instead of its own inbox.
    group: str | None
    window: int | None
    heartbeat_ms: int | None
    #: For the registry.
    capabilities: Capabilities | None
    version: str | None

    @property
    def client(self) -> str:
        """The library's name and version, for the broker's log."""
        where = f"; {self.environment}" if self.environment else ""
        return f"postbell-python/{VERSION} ({platform.python_implementation()} {platform.python_version()}{where})"[:200]

    @property
    def prefetch(self) -> int:
        """The window where nobody said another."""
        return WINDOW_DEFAULT if self.window is None else self.window


def read(agent: str | None, *, environ: Mapping[str, str] = os.environ, **given: Unpack[Given]) -> Settings:
    """Settings that are given, else POSTBELL_…; an empty variable counts as none."""

    def of(name: str, given: object) -> str | None:
        return str(given) if given is not None else environ.get(name) or None

    address = parse_url(of("POSTBELL_URL", given.get("url")) or URL_DEFAULT)
    trust = Trust(
        ca=of("POSTBELL_CA", given.get("ca")),
        pin=of("POSTBELL_PIN", given.get("pin")),
        client_cert=of("POSTBELL_CLIENT_CERT", given.get("client_cert")),
        client_key=of("POSTBELL_CLIENT_KEY", given.get("client_key")),
    )
    # A caller that asks for verification must not get a connection in clear.
    if trust.is_given and not address.tls:
        raise Invalid("a CA, a pin or a client's certificate is given, but the URL is not encrypted: use tcp+tls://")
    window, heartbeat = given.get("window"), given.get("heartbeat")
    if window is not None and not 0 <= window <= WINDOW_MAX:
        raise Invalid(f"a window is between 0 and {WINDOW_MAX}, not {window}")
    named = of("POSTBELL_INSTANCE", given.get("instance"))
    return Settings(
        agent=of("POSTBELL_AGENT", agent) or _missing("the agent's name", "POSTBELL_AGENT"),
        token=_token(of("POSTBELL_TOKEN", given.get("token")), environ.get("POSTBELL_TOKEN_FILE")),
        address=address,
        trust=trust,
        environment=of("ENVIRONMENT", given.get("environment")),
        instance=named or new_instance(),
        is_instance_ours=named is None,
        group=of("POSTBELL_GROUP", given.get("group")),
        window=window,
        heartbeat_ms=None if heartbeat is None else round(heartbeat * 1000),
        capabilities=given.get("capabilities"),
        version=given.get("version"),
    )


def new_instance() -> str:
    """A name that nobody else has."""
    return str(uuid.uuid4())


def _token(token: str | None, file: str | None) -> str:
    if token is None and file:
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise Invalid(f"the token's file {file} cannot be read: {fault}") from fault
    return (token or "").strip() or _missing("the agent's token", "POSTBELL_TOKEN")


def _missing(what: str, name: str) -> str:
    raise Invalid(f"{what} is missing: give it, or set {name}; `postbell agent add NAME` registers one")
