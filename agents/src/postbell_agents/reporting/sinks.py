"""Where alerts are told: each takes some at once and returns when they are safe there, or raises."""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..faults import Fault
from .alert import Alert, body, headline

#: A webhook's answer is not needed; more of it is not read.
ANSWER_BYTES_MAX = 64 * 1024
#: By these a webhook will not take this content, however often it is asked.
REFUSALS = (400, 413, 415, 422)


class SinkFault(Fault):
    """A report was not taken; `retry_seconds` says when to come again, `is_refusal` that this content is never taken."""

    def __init__(self, sentence: str, *, retry_seconds: float | None = None, is_refusal: bool = False) -> None:
        super().__init__(sentence)
        self.retry_seconds = retry_seconds
        self.is_refusal = is_refusal


@dataclass(frozen=True)
class Report:
    """The content for a sink: alerts, or a text of another kind such as the daily summary."""

    title: str
    text: str
    alerts: list[Alert] = field(default_factory=list)
    summary: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """The same for the same content: who gets it twice can tell."""
        of = [a.message_id for a in self.alerts] or [self.title]
        return sha256("\n".join(of).encode()).hexdigest()[:32]

    def as_json(self) -> dict[str, Any]:
        """As a webhook has it."""
        what: dict[str, Any] = {"key": self.key, "text": self.title}
        if self.summary is not None:
            return {**what, "summary": dict(self.summary)}
        return {**what, "alerts": [alert.as_json() for alert in self.alerts]}


def report(alerts: list[Alert]) -> Report:
    """The report of these alerts."""
    return Report(headline(alerts), body(alerts), alerts)


class Sink(ABC):
    """See the module."""

    @abstractmethod
    def deliver(self, report: Report) -> None:
        """Returns once it is taken; raises `SinkFault`."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A POST that is redirected becomes a GET, and its Authorization goes along to another host.
    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Webhook(Sink):
    """A JSON POST."""

    url: str
    headers: Mapping[str, str]
    timeout_seconds: float
    #: "json", or "text" for chats that want `{"text": …}` alone.
    format: str

    def deliver(self, report: Report) -> None:
        """See `Sink.deliver`."""
        content = report.as_json() if self.format == "json" else {"text": f"{report.title}\n{report.text}"}
        headers = {"Content-Type": "application/json", "User-Agent": "postbell-reporting", "Idempotency-Key": report.key}
        # The URL's scheme was checked where the configuration was read.
        request = urllib.request.Request(self.url, json.dumps(content).encode(), {**headers, **self.headers}, method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout_seconds) as answer:
                answer.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as fault:
            fault.close()
            wait = fault.headers.get("Retry-After", "")
            raise SinkFault(
                f"the webhook answered {fault.code} {fault.reason}",
                retry_seconds=float(wait) if wait.isdecimal() else None,
                is_refusal=fault.code in REFUSALS,
            ) from fault
        except (OSError, ValueError) as fault:
            raise SinkFault(f"the webhook cannot be reached: {getattr(fault, 'reason', fault)}") from fault


@dataclass(frozen=True)
class Mail(Sink):
    """E-mail by SMTP."""

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    username: str | None
    password: str | None = field(repr=False)
    #: "smtps": TLS from the first byte; "starttls": required; "offered": where the server offers it.
    tls: str
    ca: str | None
    timeout_seconds: float

    def deliver(self, report: Report) -> None:
        """See `Sink.deliver`."""
        try:
            with self._connect() as server:
                server.send_message(self.compose(report))
        except smtplib.SMTPResponseException as fault:
            text = fault.smtp_error.decode(errors="replace") if isinstance(fault.smtp_error, bytes) else fault.smtp_error
            raise SinkFault(f"the mail server answered {fault.smtp_code} {text}") from fault
        except smtplib.SMTPRecipientsRefused as fault:
            raise SinkFault(f"the mail server refused {', '.join(fault.recipients)}") from fault
        except (OSError, smtplib.SMTPException) as fault:
            raise SinkFault(f"the mail server {self.host}:{self.port} does not do: {fault}") from fault

    def compose(self, report: Report) -> EmailMessage:
        """The mail, with the content's Message-ID, so that mail programs show one of two."""
        mail = EmailMessage()
        mail["Subject"] = f"[postbell] {' '.join(report.title.split())}"[:200]
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        mail["Date"] = formatdate(localtime=False)
        mail["Message-ID"] = f"<{report.key}@{self.sender.rpartition('@')[2].rstrip('>') or 'postbell'}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(report.text)
        return mail

    def _connect(self) -> smtplib.SMTP:
        context = ssl.create_default_context(cafile=self.ca)
        if self.tls == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout_seconds, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.timeout_seconds)
        try:
            self._begin(server, context)
        except BaseException:
            server.close()
            raise
        return server

    def _begin(self, server: smtplib.SMTP, context: ssl.SSLContext) -> None:
        server.ehlo()
        is_encrypted = self.tls == "smtps"
        if not is_encrypted and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            is_encrypted = True
        if self.tls == "starttls" and not is_encrypted:
            raise SinkFault(f"the mail server {self.host} does not offer STARTTLS, which the configuration asks for")
        if self.username:
            # An attacker who strips the offer on the way must not get the password.
            if not is_encrypted and self.host not in ("localhost", "127.0.0.1", "::1"):
                raise SinkFault(f"the mail server {self.host} offers no TLS; the password is not sent in clear")
            server.login(self.username, self.password or "")


@dataclass(frozen=True)
class File(Sink):
    """JSON lines at the end of a file."""

    path: Path

    def deliver(self, report: Report) -> None:
        """See `Sink.deliver`."""
        lines = [alert.as_json() for alert in report.alerts] or [report.as_json()]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        try:
            # One write, so that two agents do not mix their lines; a file that is rotated is followed.
            with self.path.open("ab", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
        except OSError as fault:
            raise SinkFault(f"{self.path} cannot be written: {fault.strerror}") from fault
