"""PROTOCOL.md's transcripts, with this library as the client and a broker that reads its part from the page.

The agent is made to write each line that the page has the client write, by the method that does it, and the lines are
compared; each line that the page has the broker write is written to the agent, whose answer is compared. Lines that an agent
writes of its own accord (`BY_ITSELF`) are no method's, and those that the broker refuses may be mistakes that this client
does not make: they are passed over, and the broker's answer is written all the same.
"""

from __future__ import annotations

import asyncio
import json
import unittest
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from postbell import Agent, DeadLetters, Lock, Message, Refused

from .fake import hello_of
from .mesh import ROOT

PAGE = ROOT / "clients" / "rust" / "src" / "protocol" / "PROTOCOL.md"
BY_ITSELF = {"ping", "pong", "extend", "window", "begun"}
QUESTION = [("C", '{"op":"ping"}'), ("S", '{"op":"pong"}')]
#: The frames that all transcripts together must have made the agent write.
SPOKEN = {"hello", "ack", "nack", "send", "subscribe", "unsubscribe", "acquire", "release", "dead", "redrive", "purge", "bye"}
WAIT_SECONDS = 10.0
TOKEN = "pb_secret"

Frame = dict[str, Any]


def transcripts() -> list[tuple[str, list[tuple[str, str]]]]:
    found: list[tuple[str, list[tuple[str, str]]]] = []
    title, is_within = "", False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line == "```transcript":
            is_within = True
            found.append((title, []))
        elif line == "```":
            is_within = False
        elif is_within:
            who, _, what = line.partition(": ")
            found[-1][1].append((who, what))
        elif line.startswith("#"):
            title = line.lstrip("# ")
    return found


def filled(text: str) -> str:
    """With something where the page says what differs from run to run."""
    # The same message where it is pushed again.
    message_id = str(uuid.uuid5(uuid.NAMESPACE_OID, text.rpartition('"payload":')[2]))
    values = {"<id>": message_id, "<time>": "2026-11-24T02:00:00.123Z", "<token>": TOKEN, "<ms>": "1", "<incident>": "i1"}
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


class Broker:
    """The page's: one connection, whose lines it reads and writes one by one."""

    def __init__(self) -> None:
        #: The tags that the agent said it has begun.
        self.begun: set[int] = set()

    async def listen(self) -> str:
        self._came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._server = await asyncio.start_server(lambda r, w: self._came.put_nowait((r, w)), "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def accept(self) -> Frame:
        """The hello of the next connection."""
        self._reader, self.writer = await self._came.get()
        return await hello_of(self._reader, self.writer)

    async def read(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The next line that is wanted; those that an agent writes by itself may come before it."""
        while True:
            line = await self._reader.readline()
            frame: Frame = json.loads(line)
            if frame["op"] == "begun":
                self.begun |= set(frame.get("tags") or [frame["tag"]])
            if wanted(frame):
                return frame
            if frame["op"] not in BY_ITSELF:
                raise AssertionError(f"the agent wrote {frame}")

    async def close(self) -> None:
        self.writer.close()
        self._server.close()


class Play:
    """A transcript under way."""

    def __init__(self) -> None:
        self.spoken: set[str] = set()
        self._broker = Broker()
        self._agent: Agent
        self._messages: AsyncGenerator[Message, None] | None = None
        self._taken: dict[int, Message] = {}
        self._locks: dict[str, Lock] = {}
        # By the page's `ref`: the agent's, and who waits for the answer.
        self._asked: dict[str, tuple[str, asyncio.Task[Any]]] = {}
        self._acks: list[str] = []

    async def run(self, lines: list[tuple[str, str]]) -> None:
        url = await self._broker.listen()
        if lines[:2] == QUESTION:
            # The agent asks it of its own accord, and was answered before its hello was read.
            lines = lines[2:]
        first = next((what for who, what in lines if who == "C"), "{}")
        hello = json.loads(first) if '"op":"hello"' in first else {}
        token = hello.get("token", TOKEN).replace("<token>", TOKEN)
        heartbeat_ms = hello.get("heartbeat_ms")
        heartbeat = heartbeat_ms / 1000 if heartbeat_ms else None
        self._window = hello.get("window") or 32
        of_itself = {key: hello.get(key) for key in ("instance", "group", "environment", "capabilities", "version")}
        self._agent = Agent("alice", url=url, token=token, heartbeat=heartbeat, **of_itself)
        self._connecting = asyncio.create_task(self._agent.connect())
        said = await self._broker.accept()
        for key in hello.keys() - {"client", "window", "proto"}:
            same(said.get(key), hello[key] if key != "token" else token)
        self.spoken.add("hello")
        try:
            for at, (who, what) in enumerate(lines):
                following = lines[at + 1][1] if at + 1 < len(lines) else ""
                if who == "C" and what is not first:
                    await self._client(what, following)
                elif who == "S":
                    await self._server(what)
            for _, task in self._asked.values():
                assert task.done(), "the page does not say what became of it"
        finally:
            await self._broker.close()
            self._connecting.cancel()
            for _, task in self._asked.values():
                task.cancel()
            for message in self._taken.values():
                message.settle()
            await self._agent.close()

    async def _client(self, line: str, following: str) -> None:
        is_refused = '"op":"error"' in following
        try:
            frame = json.loads(line)
        except ValueError:
            assert is_refused, line
            return
        op = frame.pop("op")
        if op == "begun" and not is_refused:
            await self._begun(frame)
            return
        say = getattr(self, f"_say_{op}", None)
        work = say(frame) if say else None
        if work is None:
            assert op in BY_ITSELF or is_refused or "fence" in frame, f"the library has no way to say {line}"
            return
        self.spoken.add(op)
        reference = frame.pop("ref", None)
        task = asyncio.create_task(work)
        said = await self._broker.read(lambda said: said["op"] == op)
        own = said.pop("ref", None)
        if op == "ack" and reference is None:
            # One that nobody waits for goes with others.
            said["tag"] = said.pop("tags")[0]
        # The agent may say more than the page, where the protocol has the same default.
        same({key: value for key, value in said.items() if key in frame}, frame)
        if reference is None:
            await task
        else:
            self._asked[reference] = (own, task)

    async def _begun(self, frame: Frame) -> None:
        """The agent says `begun` by itself, once it has taken more than one message."""
        tags = set(frame.get("tags") or [frame["tag"]]) & self._taken.keys()
        while len(self._taken) > 1 and not tags <= self._broker.begun:
            await self._broker.read(lambda said: said["op"] == "begun")
        self.spoken.add("begun")

    def _say_ack(self, frame: Frame) -> Coroutine[Any, Any, Any] | None:
        tags = frame.get("tags") or [frame["tag"]]
        messages = [self._taken.pop(tag) for tag in tags if tag in self._taken]
        if not messages:
            return None
        self._acks += [message.id for message in messages]
        if "tag" in frame and "ref" in frame:
            return messages[0].ack()

        async def all_of_them() -> bool:
            return all([await message.ack(confirm=False) for message in messages])

        return all_of_them()

    def _say_nack(self, frame: Frame) -> Coroutine[Any, Any, Any]:
        message = self._taken.pop(frame["tag"])
        delay = frame["delay_ms"] / 1000 if "delay_ms" in frame else None
        match frame["outcome"]:
            case "release":
                return message.release(delay)
            case "dead":
                return message.dead(frame["reason"])
        return message.fail(frame["reason"], delay)

    def _say_send(self, frame: Frame) -> Coroutine[Any, Any, Any]:
        given = {key: value for key, value in frame.items() if key != "ref"}
        if "to_instance" in given:
            return self._answer(given)
        for key, name in (("delay_ms", "delay"), ("ttl_ms", "ttl")):
            if key in given:
                given[name] = given.pop(key) / 1000
        return self._agent.send(**given)

    def _answer(self, given: Frame) -> Coroutine[Any, Any, Any]:
        """Answers the message that was pushed with that `correlation_id`."""
        [message] = [m for m in self._taken.values() if m.correlation_id == given["correlation_id"]]
        same((message.sender, message.headers["reply_to"]), (given["to"], given["to_instance"]))
        return message.reply(given["payload"])

    def _say_subscribe(self, frame: Frame) -> Coroutine[Any, Any, Any]:
        return self._agent.subscribe(frame["topic"])

    def _say_unsubscribe(self, frame: Frame) -> Coroutine[Any, Any, Any]:
        return self._agent.unsubscribe(frame["topic"])

    def _say_acquire(self, frame: Frame) -> Coroutine[Any, Any, Any] | None:
        # With a fence it is the renewal, which is nobody's to say.
        return None if "fence" in frame else self._acquire(frame["key"], frame["ttl_ms"] / 1000)

    async def _acquire(self, key: str, ttl: float) -> Lock:
        lock = await self._agent.lock(key, ttl)
        if lock.held:
            self._locks[key] = lock
        return lock

    def _say_release(self, frame: Frame) -> Coroutine[Any, Any, Any] | None:
        lock = self._locks.pop(frame["key"], None)
        if lock is None:
            return None
        return lock.done() if frame.get("done") else lock.release()

    def _say_dead(self, frame: Frame) -> Coroutine[Any, Any, Any]:
        return self._agent.dead_letters(frame.get("inbox"), frame.get("after"), frame.get("limit"))

    def _say_redrive(self, frame: Frame) -> Coroutine[Any, Any, Any]:
        return self._agent.redrive(ids=frame.get("ids"), inbox=frame.get("inbox"))

    def _say_purge(self, frame: Frame) -> Coroutine[Any, Any, Any] | None:
        if not frame.keys() & {"ids", "inbox"}:
            return None
        return self._agent.purge(ids=frame.get("ids"), inbox=frame.get("inbox"))

    def _say_bye(self, frame: Frame) -> Coroutine[Any, Any, Any]:
        return self._agent.close()

    async def _server(self, line: str) -> None:
        if line == "(closes)":
            self._broker.writer.close()
            return
        frame = json.loads(filled(line))
        reference = frame.get("ref")
        own, task = self._asked.get(reference, (reference, None))
        if frame["op"] == "msg":
            await self._pushed(frame)
            return
        text = filled(line)
        self._broker.writer.write(text.replace(json.dumps(reference), json.dumps(own), 1).encode() + b"\n")
        if frame["op"] == "welcome":
            await self._connecting
        elif frame["op"] == "error" and frame["fatal"]:
            await refuses(self._connecting if not self._connecting.done() else asyncio.ensure_future(self._next()), frame)
        elif frame["op"] == "error" and frame["code"] == "slow_down":
            await self._sent_again(task)
        elif task and frame["op"] == "error":
            await refuses(task, frame)
        elif task:
            await self._compare(frame, await task)

    async def _pushed(self, frame: Frame) -> None:
        if self._messages is None:
            self._messages = self._agent.messages(self._window)
            taking = asyncio.ensure_future(anext(self._messages))
            await self._broker.read(lambda said: said["op"] == "window" and said["n"] == self._window)
        else:
            taking = asyncio.ensure_future(anext(self._messages))
        self._broker.writer.write(json.dumps(frame).encode() + b"\n")
        message = await taking
        same(
            (message.id, message.sender, message.type, message.priority, message.attempt, message.payload),
            tuple(frame[key] for key in ("id", "from", "type", "priority", "attempt", "payload")),
        )
        same((message.topic, message.correlation_id), (frame.get("topic"), frame.get("correlation_id")))
        same((message.group, message.headers), (frame.get("group"), frame.get("headers") or {}))
        self._taken[frame["tag"]] = message

    async def _sent_again(self, task: asyncio.Task[Any] | None) -> None:
        """By itself, once it may; then it is taken."""
        assert task
        again = await self._broker.read(lambda said: said["op"] == "send")
        self._broker.writer.write(json.dumps({"op": "sent", "ref": again["ref"], "id": "later"}).encode() + b"\n")
        same(await task, "later")

    async def _compare(self, frame: Frame, result: Any) -> None:
        match frame["op"]:
            case "sent":
                same(result, frame["id"])
            case "acked":
                same(result, True)
                assert self._agent._driver
                while any(self._agent._driver.hands.is_handled(message_id) for message_id in self._acks):
                    await asyncio.sleep(0.01)
            case "lock":
                same((result.held, result.fence, result.holder), (frame["held"], frame.get("fence"), frame.get("holder")))
                same(result.is_done, frame.get("done", False))
            case "dead_letters":
                assert isinstance(result, DeadLetters)
                same((len(result.letters), result.more), (len(frame["letters"]), frame["more"]))
                same([letter.reason for letter in result.letters], [letter["reason"] for letter in frame["letters"]])
            case "redriven" | "purged":
                same(result, frame["count"])
                refused = result.refused and {"count": result.refused.count, "reason": result.refused.reason}
                same(refused, frame.get("refused"))
            case "subscribed" | "unsubscribed" | "released":
                same(result, None)
            case op:
                raise AssertionError(f"nothing is known of {op}")

    async def _next(self) -> object:
        return await anext(self._agent.messages())


async def refuses(task: asyncio.Future[Any], frame: Frame) -> None:
    try:
        await task
    except Refused as refused:
        same((refused.code, refused.message), (frame["code"], frame["message"]))
        return
    raise AssertionError(f"it passed over {frame}")


def same(got: object, wanted: object) -> None:
    assert got == wanted, f"{got!r} instead of {wanted!r}"


class Transcripts(unittest.IsolatedAsyncioTestCase):
    async def test_every_transcript_of_the_protocol_is_spoken_as_it_stands(self) -> None:
        spoken: set[str] = set()
        found = transcripts()
        self.assertGreater(len(found), 12)
        for title, lines in found:
            with self.subTest(title):
                play = Play()
                await asyncio.wait_for(play.run(lines), WAIT_SECONDS)
                spoken |= play.spoken
        # An older page has no such op.
        has_begun = any('"op":"begun"' in what for _, lines in found for _, what in lines)
        self.assertGreaterEqual(spoken, SPOKEN | ({"begun"} if has_begun else set()))
