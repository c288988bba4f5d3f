"""Environments: each a process group with its own ENVIRONMENT, as a PC, a container and a scheduled job are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from support import Credentials, environment, until

PROBE = Path(__file__).with_name("probe.py")
#: Enough for anything on a busy machine, and far from the second signal.
END_SECONDS = 30.0


class Started:
    """A process, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def says(self, text: str) -> str:
        """The first line with this in it, once it is there."""
        return until(lambda: next((line for line in list(self.lines) if text in line), None), f"{text!r} in {self.lines}")

    def facts(self, what: str, **values: Any) -> list[dict[str, Any]]:
        """The lines of a probe about this."""
        found = []
        for line in list(self.lines):
            if line.startswith("{") and (fact := json.loads(line))["what"] == what:
                found.append(fact)
        return [fact for fact in found if all(fact.get(k) == v for k, v in values.items())]

    def fact(self, what: str, **values: Any) -> dict[str, Any]:
        """The first such line, once it is there."""
        return until(lambda: self.facts(what, **values), f"{what} {values} in {self.lines}")[0]


class Environment:
    """See the module."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.group: int | None = None
        self._started: list[Started] = []

    def start(self, who: Credentials, *arguments: str) -> Started:
        """A process of its group."""
        group = self.group or 0
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(who, ENVIRONMENT=self.name, PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: os.setpgid(0, group),
        )
        self.group = self.group or process.pid
        started = Started(process)
        self._started.append(started)
        return started

    def probe(self, who: Credentials, *arguments: str) -> Started:
        """See probe.py."""
        return self.start(who, str(PROBE), *arguments)

    def agent(self, kind: str, config: Path, who: Credentials, *arguments: str) -> Started:
        """One of the agents."""
        return self.start(who, "-m", "postbell_agents", kind, "--config", str(config), *arguments)

    def end(self) -> dict[int, int]:
        """All of it is told to leave; its exit statuses, but of those that ended before."""
        living = [s.process for s in self._started if s.process.poll() is None]
        if living and self.group:
            os.killpg(self.group, signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        for process in living:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return {process.pid: process.returncode for process in living}
