"""A broker that writes what a test says, line by line, and keeps what it is told; and agents of either face that run on it.

The broker lives in threads: the agents it is for may block, end their loop, or fork.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from postbell import Agent, Message, Summary, SyncAgent

Frame = dict[str, Any]
WAIT_SECONDS = 20.0
#: Longer than two lines are apart on a machine that is busy.
IDLE = 0.5

WELCOME = {"op": "welcome", "proto": 1, "broker": "fake", "session": 1, "heartbeat_ms": 15000}
LIMITS = {"line_bytes": 1048576, "payload_bytes": 983040, "window": 10000}
PONG = b'{"op":"pong"}'


async def hello_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Frame:
    """Answers the question that comes before the hello; gives back the hello."""
    while True:
        frame: Frame = json.loads(await reader.readline())
        if frame["op"] == "hello":
            return frame
        assert frame == {"op": "ping"}, frame
        writer.write(PONG + b"\n")


def msg(tag: int, payload: str | bytes = "1", **fields: object) -> bytes:
    """A delivery: fields as values, the payload as the text it has in the line."""
    frame: Frame = {
        "op": "msg",
        "tag": tag,
        "attempt": 1,
        "deadline_ms": 30000,
        "id": f"m{tag}",
        "from": "peer",
        "type": "data",
    }
    frame |= {"priority": 5, "created_at": "2026-11-24T02:00:00.123Z"} | fields
    body = payload if isinstance(payload, bytes) else payload.encode()
    return json.dumps(frame).encode()[:-1] + b',"payload":' + body + b"}"


class FakeBroker:
    """See the module."""

    def __init__(
        self,
        lines: list[bytes],
        *,
        on_send: Callable[[Frame], list[bytes]] | None = None,
        on_question: Callable[[int], bytes | None] | None = None,
        is_old: bool = False,
    ) -> None:
        self._lines = lines
        self._is_old = is_old
        # The answer to the question before the hello, by the connection's number; an error closes the connection.
        self._on_question = on_question or (lambda _: PONG)
        self._on_send = on_send
        self._changed = threading.Condition()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        #: The frames that each connection said, in its order.
        self.said: list[list[Frame]] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                self._sockets.append(peer)
                self.said.append([])
                threading.Thread(target=self._serve, args=(peer, len(self.said) - 1), daemon=True).start()

    def _serve(self, peer: socket.socket, number: int) -> None:
        said = self.said[number]
        with suppress(OSError), peer, peer.makefile("rb") as lines:
            for line in lines:
                frame = json.loads(line)
                with self._changed:
                    said.append(frame)
                    self._changed.notify_all()
                is_question = frame["op"] == "ping" and len(said) == 1
                answers = [self._on_question(number)] if is_question else self._answers(frame, said)
                for answer in filter(None, answers):
                    peer.sendall(answer + b"\n")
                if is_question and b'"error"' in (answers[0] or b""):
                    break
        with self._changed:
            said.append({"op": "(gone)"})
            self._changed.notify_all()

    def _answers(self, frame: Frame, said: list[Frame]) -> list[bytes]:
        reference = frame.get("ref")
        match frame["op"]:
            case "hello":
                return [json.dumps(WELCOME | {"limits": LIMITS}).encode()]
            case "window" if frame["n"] and sum(one["op"] == "window" for one in said) == 1:
                return self._lines
            case "begun" if self._is_old:
                return [b'{"op":"error","code":"unknown_op","fatal":false,"message":"this broker knows no op \\"begun\\""}']
            case "ping":
                return [PONG]
            case "ack" if reference:
                return [json.dumps({"op": "acked", "ref": reference}).encode()]
            case "send":
                sent = json.dumps({"op": "sent", "ref": reference, "id": "sent"}).encode()
                return [sent, *(self._on_send(frame) if self._on_send else [])]
        return []

    def wait(self, what: Callable[[list[list[Frame]]], object]) -> None:
        """Until it was told so."""
        with self._changed:
            assert self._changed.wait_for(lambda: what(self.said), WAIT_SECONDS), self.said

    def outcomes(self) -> dict[int, str]:
        """By tag, what became of it; the first is what counts."""
        found: dict[int, str] = {}
        for frame in (frame for said in self.said for frame in said):
            if frame["op"] == "ack":
                for tag in frame.get("tags") or [frame["tag"]]:
                    found.setdefault(tag, "ack")
            elif frame["op"] == "nack":
                found.setdefault(frame["tag"], f"{frame['outcome']}: {frame.get('reason')}")
        return found

    def ops(self, number: int) -> list[str]:
        """The ops of a connection, in its order."""
        return [frame["op"] for frame in self.said[number]]

    def drop(self, number: int) -> None:
        """Ends a connection."""
        self._sockets[number].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """No more."""
        self._server.close()
        for peer in self._sockets:
            with suppress(OSError):
                peer.close()


@contextmanager
def fake(lines: list[bytes], **more: Any) -> Iterator[FakeBroker]:
    """Until the block ends."""
    broker = FakeBroker(lines, **more)
    try:
        yield broker
    finally:
        broker.close()


#: The faces of the library, and the kinds of handler: what holds for one holds for all.
FACES = ("async", "sync")
KINDS = ("def", "async def")


def handler(kind: str, call: Callable[[Any], object]) -> Callable[[Any], Any]:
    """A handler of this kind that does this."""
    if kind == "def":

        def handle(message: Any) -> None:
            call(message)

        return handle

    async def handle_async(message: Message) -> None:
        call(message)

    return handle_async


def drain(face: str, url: str, handle: Callable[[Any], Any], **more: Any) -> Summary:
    """Handles what comes, until nothing does."""
    more = {"idle": IDLE, "failures_ok": True, "report": False} | more
    if face == "sync":
        with SyncAgent("a", url=url, token="t") as agent:
            agent.on()(handle)
            return agent.drain(**more)

    async def drained() -> Summary:
        async with Agent("a", url=url, token="t") as agent:
            agent.on()(handle)
            return await agent.drain(**more)

    return asyncio.run(drained())
