"""Brokers and a database for the tests: processes of the real thing, started once, ended with the run.

`dev --tls` brings a Postgres and is the broker that is encrypted; a `serve` beside it on the same database is the one in
clear, which tests may also kill and start again.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from postbell import Agent, SyncAgent

ROOT = Path(__file__).resolve().parents[3]
WAIT_SECONDS = 30.0
#: Short, so that a test can outlast it.
ACK_DEADLINE_SECONDS = 2
#: The shortest that is allowed, for tests that outlast two of them. The others bear a loop that stands still while an agent
#: is registered on a busy machine.
HEARTBEAT_SECONDS = 1.0

_SETTINGS = {
    "POSTBELL_ACK_DEADLINE_SECONDS": str(ACK_DEADLINE_SECONDS),
    "POSTBELL_MAX_ATTEMPTS": "3",
    "POSTBELL_RETRY_BASE_MS": "20",
    "POSTBELL_DRAIN_SECONDS": "5",
}
_numbers = itertools.count(1)
# Ends a broker whose test process was killed: then nobody holds the other end of the guard's input. A signal to the tests'
# whole group must not end the guard first.
_GUARD = """trap '' INT TERM HUP; read -r word; [ "$word" = dismissed ] || { kill "$1"; kill -CONT "$1"; } 2> /dev/null"""


def binary() -> str:
    """The broker that was built."""
    named = os.environ.get("POSTBELL_BIN")
    path = Path(named) if named else ROOT / "target" / "debug" / "postbell"
    if not path.exists():
        raise RuntimeError(f"there is no broker at {path}: `cargo build`, or set POSTBELL_BIN")
    return str(path)


def _environment(**more: str) -> dict[str, str]:
    # Neither a database nor a broker of whoever runs the tests.
    names = ("DATABASE_URL", "POSTGRES_URL_NON_POOLING", "PORT", "ENVIRONMENT")
    own = {k: v for k, v in os.environ.items() if not k.startswith("POSTBELL_") and k not in names}
    pg_bin = os.environ.get("POSTBELL_TEST_PG")
    return own | _SETTINGS | ({"POSTBELL_PG_BIN": pg_bin} if pg_bin else {}) | more


class Process:
    """A broker's process, and what it says."""

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        self._child = subprocess.Popen(
            [binary(), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._guard = subprocess.Popen(["/bin/sh", "-c", _GUARD, "guard", str(self._child.pid)], stdin=subprocess.PIPE)
        self._said = ""
        self._changed = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        atexit.register(self.end)

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            with self._changed:
                self._said += line
                self._changed.notify_all()
        self._child.stdout.close()
        with self._changed:
            self._said += "\n(it ended)\n"
            self._changed.notify_all()

    def find(self, pattern: str) -> str:
        """The match of the pattern in what the process said, or says soon."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self._said)

        with self._changed:
            self._changed.wait_for(lambda: found() or "(it ended)" in self._said, WAIT_SECONDS)
            match = found()
        if match is None:
            raise AssertionError(f"the broker did not say {pattern!r} but:\n{self._said}")
        return match.group(1)

    def tell(self, number: int) -> None:
        """To this process alone."""
        self._child.send_signal(number)
        if number == signal.SIGSTOP:
            # Until all of its threads stand one of them may still answer.
            os.waitid(os.P_PID, self._child.pid, os.WSTOPPED)

    def end(self, number: int = signal.SIGTERM) -> None:
        """By this signal; harder where it does not go."""
        if self._child.poll() is None:
            self._child.send_signal(number)
            try:
                self._child.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._listener.join(WAIT_SECONDS)
        self._guard.communicate(b"dismissed\n")
        atexit.unregister(self.end)


@dataclass
class Credentials:
    """An agent's name, token and address."""

    name: str
    token: str
    url: str

    def agent(self, **more: object) -> Agent:
        """Not open yet."""
        return Agent(self.name, **({"url": self.url, "token": self.token} | more))  # type: ignore[arg-type]

    def sync_agent(self, **more: object) -> SyncAgent:
        """Not open yet."""
        return SyncAgent(self.name, **({"url": self.url, "token": self.token} | more))  # type: ignore[arg-type]


class Mesh:
    """See the module."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="postbell-python-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        data = ["--data-dir", str(folder), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        dev = Process("dev", "--tls", *data, environment=_environment())
        self.tls_url = dev.find(r"POSTBELL_URL=(\S+)")
        self.database_url = dev.find(r"psql '(\S+)'")
        self.ca = folder / "tls" / "ca.pem"
        self.pin = dev.find(r"fingerprint=\S*?([0-9a-f]{64})")
        self._port = _free_port()
        self.url = f"tcp://127.0.0.1:{self._port}"
        self._broker = self._serve()

    def _serve(self) -> Process:
        arguments = ["--listen", f"127.0.0.1:{self._port}", "--http", "127.0.0.1:0"]
        broker = Process("serve", *arguments, environment=_environment(DATABASE_URL=self.database_url))
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return broker
            time.sleep(0.05)
        raise AssertionError(f"the broker took no connection:\n{broker._said}")

    def end_broker(self, number: int = signal.SIGKILL) -> None:
        """That in clear."""
        self._broker.end(number)

    def freeze_broker(self) -> None:
        """The broker lives, and does nothing from when this returns, until it is ended."""
        self._broker.tell(signal.SIGSTOP)

    def start_broker(self) -> None:
        """Again, at the same address."""
        self._broker = self._serve()

    def agent(
        self, kind: str = "agent", *, name: str | None = None, role: str = "agent", environment: str = "pc"
    ) -> Credentials:
        """Registers one that nobody else has."""
        name = name or f"{kind}-{next(_numbers)}"
        arguments = ["agent", "add", name, "--role", role, "--environment", environment]
        done = subprocess.run(
            [binary(), *arguments],
            env=_environment(DATABASE_URL=self.database_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            text=True,
        )
        return Credentials(name, done.stdout.strip(), self.url)


@cache
def sender() -> Credentials:
    """One that any test sends by: registering takes a process each time."""
    return mesh().agent("sender")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@cache
def mesh() -> Mesh:
    """The one of this run."""
    return Mesh()
