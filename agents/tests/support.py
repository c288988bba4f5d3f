"""Helpers that the tests on a real mesh share."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from postbell import SyncAgent, SyncMessage
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from tests.mesh import Credentials, Mesh, Process, mesh

from postbell_agents import cli

__all__ = ["Credentials", "Heard", "Mesh", "Running", "Stage", "exported", "mesh", "until"]

WAIT_SECONDS = 30.0
#: Longer than a message takes to come on a machine that is busy.
IDLE_SECONDS = 0.7

T = TypeVar("T")
_numbers = itertools.count(1)


def until(look: Callable[[], T | None], what: str) -> T:
    """Looks until something is found, and returns it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {WAIT_SECONDS:g} s: {what}; the last look gave {found!r}")
        time.sleep(0.02)


@cache
def exporter() -> str:
    """The address of a second broker's metrics, since only a broker of one's own says where its port for them is."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("POSTBELL_") and k != "PORT"}
    ports = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    broker = Process("serve", *ports, environment={**own, "DATABASE_URL": mesh().database_url})
    address = broker.find(r"http=(\S+)")
    return f"http://{address}/metrics"


def exported() -> str:
    """The text that Prometheus would read."""
    try:
        with urllib.request.urlopen(exporter(), timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.URLError:
        # The exporter is starting.
        return ""


class Heard:
    """An agent of the test's that keeps what it gets."""

    def __init__(self, who: Credentials, *topics: str) -> None:
        self.messages: list[SyncMessage] = []
        self.agent: SyncAgent = who.sync_agent()
        self.agent.connect()
        for topic in topics:
            self.agent.subscribe(topic)
        self.agent.on()(self.messages.append)
        self._thread = threading.Thread(target=lambda: self.agent.run(4), daemon=True)
        self._thread.start()

    def wait(self, count: int = 1, of: Callable[[SyncMessage], bool] = lambda _: True) -> list[SyncMessage]:
        """So many messages."""

        def enough() -> list[SyncMessage] | None:
            found = [message for message in list(self.messages) if of(message)]
            return found if len(found) >= count else None

        return until(enough, f"{count} messages; there are {self.messages}")

    def answer(self, correlation_id: str) -> Any:
        """The payload of the answer."""
        return self.wait(1, lambda m: m.type == "response" and m.correlation_id == correlation_id)[0].payload

    def close(self) -> None:
        """No more."""
        while self._thread.is_alive():
            self.agent.stop()
            self._thread.join(0.1)
        self.agent.close()


class Running:
    """An agent's process."""

    def __init__(self, kind: str, config: Path, who: Credentials, log: Path, **environ: str) -> None:
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "postbell_agents",
                    kind,
                    "--config",
                    str(config),
                    *(environ.pop("arguments", "").split()),
                ],
                env=environment(who, **environ),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def said(self) -> str:
        """The text of the process's log."""
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Until it says so."""
        until(lambda: text in self.said() or self.process.poll() is not None, f"{text!r} in\n{self.said()}")
        assert text in self.said(), self.said()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends the process, and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait(WAIT_SECONDS)


def environment(who: Credentials, **more: str) -> dict[str, str]:
    """The environment of an agent's process."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("POSTBELL_") and k not in ("ENVIRONMENT", "DATABASE_URL")}
    return own | variables(who) | more


def variables(who: Credentials) -> dict[str, str]:
    """An agent's credentials as environment variables."""
    return {
        "POSTBELL_AGENT": who.name,
        "POSTBELL_URL": who.url,
        "POSTBELL_TOKEN": who.token,
        "DATABASE_URL": mesh().database_url,
    }


class Stage:
    """See the fixture."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, connection: psycopg.Connection[DictRow]) -> None:
        self.folder = folder
        self.schema = f"job_{next(_numbers)}"
        self.connection = connection
        self._monkeypatch = monkeypatch
        self._closing: list[Callable[[], object]] = []

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
        """Until the test ends."""
        with psycopg.connect(mesh().database_url, autocommit=True, row_factory=dict_row) as connection:
            stage = cls(folder, monkeypatch, connection)
            stage.run("create schema {schema}")
            stage.run("set search_path = {schema}, public")
            try:
                yield stage
            finally:
                for close in reversed(stage._closing):
                    close()
                stage.run("drop schema {schema} cascade")

    def run(self, text: str, *values: Any) -> list[DictRow]:
        """A statement; `{schema}` in it is the test's."""
        query = sql.SQL(text).format(schema=sql.Identifier(self.schema)) if "{schema}" in text else sql.SQL(text)
        cursor = self.connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    def column(self, text: str, *values: Any) -> list[Any]:
        """The first column."""
        return [next(iter(row.values())) for row in self.run(text, *values)]

    def agent(self, kind: str, **more: Any) -> Credentials:
        """Registers one."""
        return mesh().agent(kind, **more)

    def heard(self, who: Credentials, *topics: str) -> Heard:
        """An agent that keeps what it gets."""
        heard = Heard(who, *topics)
        self._closing.append(heard.close)
        return heard

    def sender(self) -> SyncAgent:
        """One that only sends."""
        agent = self.agent("sender").sync_agent()
        agent.connect()
        self._closing.append(agent.close)
        return agent

    def config(self, text: str) -> Path:
        """A file; `@.`, or `"@"`, in a table's name is the test's schema."""
        head = f'[database]\nurl = "env:DATABASE_URL"\n[run]\nidle_seconds = {IDLE_SECONDS}\nmetrics_seconds = 0\n'
        path = self.folder / f"{next(_numbers)}.toml"
        path.write_text(head + text.replace('"@"', f'"{self.schema}"').replace("@.", f"{self.schema}."))
        return path

    def once(self, kind: str, config: Path, who: Credentials) -> int:
        """Runs an agent in this process, once; its exit status."""
        with self._monkeypatch.context() as patch:
            patch.delenv("ENVIRONMENT", raising=False)
            for name, value in variables(who).items():
                patch.setenv(name, value)
            return cli.main([kind, "--config", str(config), "--once"])

    def start(self, kind: str, config: Path, who: Credentials, **environ: str) -> Running:
        """Starts an agent's process."""
        running = Running(kind, config, who, self.folder / f"{who.name}-{next(_numbers)}.log", **environ)
        self._closing.append(running.kill)
        return running

    def alerts(self, who: Credentials) -> list[DictRow]:
        """An agent's, the oldest first."""
        return self.run(
            "select severity, message, details, status from agent_alerts where agent_id = %s order by created_at", who.name
        )

    def metric(self, who: Credentials, name: str) -> float:
        """The latest value."""
        return float(
            self.column(
                "select metric_value from agent_metrics where agent_id = %s and metric_name = %s "
                "order by recorded_at desc limit 1",
                who.name,
                name,
            )[0]
        )
