"""The cost of a message in the library alone: processor time of one process that receives and acknowledges, in microseconds.

The broker is a process of this script's own that knows just enough of the protocol: it keeps the window full, and answers
acks at once. So neither a broker's speed nor a database's is in the figure, only the processor time of the agent's process.

    python3 bench/alone.py async 20000 8     # async def handlers, eight side by side; also: def, messages
    python3 bench/alone.py --library ../../../before/clients/python async 20000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path

WINDOW = 1_000
#: Fewer messages are not worth a write of the broker's.
PUSHES_MIN = 100
WELCOME = {"op": "welcome", "proto": 1, "broker": "alone", "session": 1, "heartbeat_ms": 15_000}
LIMITS = {"line_bytes": 1_048_576, "payload_bytes": 983_040, "window": 10_000}


def line(number: int) -> bytes:
    """A delivery of about 400 bytes, as the broker writes it."""
    frame = {"op": "msg", "tag": number, "id": f"00000000-0000-7000-8000-{number:012d}", "from": "peer", "type": "data"}
    frame |= {"priority": 5, "attempt": 1, "created_at": "2026-11-24T02:00:00.123Z", "deadline_ms": 30_000}
    return json.dumps(frame | {"payload": {"n": number, "text": "x" * 150}}).encode() + b"\n"


def serve(listener: socket.socket, count: int) -> None:
    """The broker: one connection, `count` messages."""
    lines = [line(number) for number in range(1, count + 1)]
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pushed = acked = 0
    is_open = False
    for text in peer.makefile("rb"):
        frame = json.loads(text)
        out = b""
        match frame["op"]:
            case "hello":
                out = json.dumps(WELCOME | {"limits": LIMITS}).encode() + b"\n"
            case "window":
                is_open = is_open or frame["n"] > 0
            case "ack":
                acked += len(frame["tags"])
                out = json.dumps({"op": "acked", "ref": frame["ref"]}).encode() + b"\n"
            case "ping":
                out = b'{"op":"pong"}\n'
            case "bye":
                return
        room = min(WINDOW - (pushed - acked), count - pushed)
        if is_open and (room >= PUSHES_MIN or pushed + room == count):
            out += b"".join(lines[pushed : pushed + room])
            pushed += room
        if out:
            peer.sendall(out)


async def take(kind: str, url: str, count: int, concurrency: int) -> float:
    """Seconds of the processor for all of them."""
    from postbell import Agent, Message

    taken = 0
    async with Agent("alone", url=url, token="t", window=WINDOW) as agent:

        def handle(message: Message) -> None:
            nonlocal taken
            taken += 1
            if taken == count:
                agent.stop()

        async def handle_async(message: Message) -> None:
            handle(message)

        began = time.process_time()
        if kind == "messages":
            async for message in agent.messages():
                taken += 1
                await message.ack(confirm=False)
                if taken == count:
                    break
        else:
            agent.on()(handle_async if kind == "async" else handle)
            await agent.run(concurrency, report=False)
        return time.process_time() - began


def main() -> None:
    """Prints the microseconds of a message."""
    parser = argparse.ArgumentParser(description="Processor time of the library alone, a message.")
    parser.add_argument("kind", choices=("async", "def", "messages"))
    parser.add_argument("count", type=int, nargs="?", default=20_000)
    parser.add_argument("concurrency", type=int, nargs="?", default=1)
    parser.add_argument("--library", default=str(Path(__file__).resolve().parents[1]), help="where another postbell is")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    given = parser.parse_args()
    sys.path.insert(0, given.library)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    child = os.fork()
    if child == 0:
        try:
            serve(listener, given.count)
        finally:
            os._exit(0)
    listener.close()
    if given.profile:
        import cProfile

        cProfile.runctx(
            "asyncio.run(take(given.kind, url, given.count, given.concurrency))", globals(), locals(), sort="tottime"
        )
    else:
        seconds = asyncio.run(take(given.kind, url, given.count, given.concurrency))
        print(f"{seconds / given.count * 1e6:.1f}")
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
