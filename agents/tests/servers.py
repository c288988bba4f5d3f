"""Servers of the test's own: a web server that says what it is told to, and a mail server that keeps what it gets."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Request:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """The answer to a request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    #: Says so many bytes more than it sends.
    missing: int = 0


class Web:
    """Answers by a function; remembers what was asked."""

    def __init__(self, answer: Callable[[Request], Reply] = lambda _: Reply()) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(length), time.monotonic())
                web.requests.append(request)
                reply = web.answer(request)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 304:
                    self.send_header("Content-Length", str(len(reply.body) + reply.missing))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Mail:
    """As much of SMTP as a client of ours says: EHLO, STARTTLS where there is a certificate, MAIL, RCPT, DATA."""

    def __init__(self, certificate: tuple[Path, Path] | None = None, *, host: str = "127.0.0.1") -> None:
        self.mails: list[str] = []
        self.was_encrypted: list[bool] = []
        self.said: list[bytes] = []
        mail = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                mail._serve(self.request, certificate)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                # A client that does not trust us leaves in the middle of the handshake.
                pass

        self._server = Server((host, 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = self._server.server_address[1]

    def _serve(self, connection: socket.socket, certificate: tuple[Path, Path] | None) -> None:
        is_encrypted = False

        def say(line: str) -> None:
            connection.sendall(line.encode() + b"\r\n")

        say("220 mail.test")
        lines = connection.makefile("rb")
        while line := lines.readline():
            self.said.append(line)
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"EHLO":
                say("250-mail.test")
                if certificate and not is_encrypted:
                    say("250-STARTTLS")
                say("250-AUTH PLAIN")
                say("250 8BITMIME")
            elif verb == b"STARTTLS" and certificate:
                say("220 go on")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                connection = context.wrap_socket(connection, server_side=True)
                lines = connection.makefile("rb")
                is_encrypted = True
            elif verb == b"DATA":
                say("354 go on")
                data = b""
                while (line := lines.readline()) not in (b".\r\n", b""):
                    data += line
                self.mails.append(data.decode())
                self.was_encrypted.append(is_encrypted)
                say("250 taken")
            elif verb == b"QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Makes a certificate for 127.0.0.1, signed by itself."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    who = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    arguments = [*kind.split(), *who.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    return cert, key
