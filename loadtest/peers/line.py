"""How a process that takes messages talks with the load test: see README.md, "The lines"."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable


class Line:
    """Receipts on their way to the load test, and its orders."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._gathered: list[str] = []

    def received(self, n: int, at: int) -> None:
        """Notes that message ``n`` is in hand since ``at``, of ``time.monotonic_ns``."""
        self._gathered.append(f"{n} {at}\n")

    def flush(self) -> None:
        """Writes what has gathered."""
        sys.stdout.write("".join(self._gathered))
        sys.stdout.flush()
        self._gathered.clear()

    def wait_to_begin(self) -> None:
        """Says that the process is there, and waits for the order to begin. The next order is to stop."""
        self.say("ready")
        sys.stdin.readline()
        threading.Thread(target=self._wait_to_stop, daemon=True).start()

    def say(self, line: str) -> None:
        """Writes this line at once."""
        self._gathered.append(line + "\n")
        self.flush()

    def _wait_to_stop(self) -> None:
        # The end of the orders says the same.
        sys.stdin.readline()
        self.stopped.set()


def main(setup: Callable[[], dict[str, str]], take: Callable[[Line], None]) -> None:
    """Runs what the command line asks for: ``setup`` makes the queue, ``take`` takes messages until it is told to stop."""
    if sys.argv[1] == "setup":
        print(json.dumps(setup()))
        return
    line = Line()
    line.wait_to_begin()
    take(line)
    line.flush()
