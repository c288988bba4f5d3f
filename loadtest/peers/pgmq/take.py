"""Takes messages by pgmq's own client: see README.md beside this."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from line import Line, main
from pgmq import PGMQueue, install_pgmq_from_sql

QUEUE = "work"
#: As many as the others have in their windows.
BATCH = 1_000
POLL_EVERY_MS = 10
#: How long one poll may last, in seconds: the process looks at its orders in between.
POLL = 1
#: How long a message is nobody else's, in seconds: longer than any run.
HIDDEN = 300


def setup() -> dict[str, str]:
    """Installs pgmq by its SQL alone, and makes the queue."""
    version = install_pgmq_from_sql(dsn=os.environ["DATABASE_URL"])
    queue = connect()
    queue.create_queue(QUEUE)
    queue.close()
    return {"version": version}


def connect() -> PGMQueue:
    """Connects to a database that has pgmq without the extension."""
    return PGMQueue(conn_string=os.environ["DATABASE_URL"], init_extension=False)


def take(line: Line) -> None:
    """Reads a batch, deletes it, and reads on."""
    queue = connect()
    line.say("taking")
    while not line.stopped.is_set():
        found = queue.read_with_poll(
            QUEUE, vt=HIDDEN, qty=BATCH, max_poll_seconds=POLL, poll_interval_ms=POLL_EVERY_MS
        )
        at = time.monotonic_ns()
        for message in found or ():
            line.received(message.message["n"], at)
        if found:
            queue.delete_batch(QUEUE, [message.msg_id for message in found])
            line.flush()
    queue.close()


if __name__ == "__main__":
    main(setup, take)
