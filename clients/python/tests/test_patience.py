"""The question before the hello: a broker that does not answer hears no hello; how long a client waits for the answer."""

from __future__ import annotations

import asyncio
import json
import socket
import unittest
from contextlib import suppress
from unittest.mock import patch

from postbell import NoBroker, Refused, SyncAgent, TimedOut, Unreachable
from postbell.connector import Connector
from postbell.limits import CONNECT_WAIT_SECONDS
from postbell.patience import Patience
from postbell.settings import read

from .fake import PONG, WAIT_SECONDS, FakeBroker, fake


def error(code: str, **more: object) -> bytes:
    return json.dumps({"op": "error", "code": code, "fatal": True, "message": "no"} | more).encode()


class Numbers(unittest.TestCase):
    def test_it_is_four_times_what_the_last_answer_took_within_bounds(self) -> None:
        patience = Patience()
        self.assertEqual(patience.wait, 1.0)
        for took, wait in ((0.5, 2.0), (0.1, 0.4), (0.001, 0.25), (2.0, 8.0), (3.0, 10.0), (0.0, 0.25)):
            patience.answered(took)
            self.assertEqual(patience.wait, wait)

    def test_each_silence_doubles_it_up_to_the_wait_for_a_connection(self) -> None:
        patience = Patience()
        patience.answered(0.0)
        waits = []
        for _ in range(8):
            patience.silent()
            waits.append(patience.wait)
        self.assertEqual(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0])
        self.assertEqual(waits[-1], CONNECT_WAIT_SECONDS)
        patience.answered(0.2)
        self.assertEqual(patience.wait, 0.8)


def frozen_connections(frozen: socket.socket) -> int:
    """How many connections the kernel accepted meanwhile."""
    frozen.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            frozen.accept()[0].close()
            count += 1
    return count


class Question(unittest.TestCase):
    """With a fake that answers it as each test has it."""

    def session(self, broker: FakeBroker, agent: SyncAgent, number: int) -> int:
        """The connection, of this number or a later one, that has the session: it takes a send."""
        broker.wait(lambda said: any("hello" in broker.ops(n) for n in range(number, len(said))))
        self.assertEqual(agent.send(to="b", payload=1, dedupe_key="k"), "sent")
        return next(n for n in range(number, len(broker.said)) if "send" in broker.ops(n))

    def test_a_frozen_broker_is_told_no_hello_and_the_next_one_has_the_session(self) -> None:
        with (
            fake([], on_question=lambda number: None if number == 1 else PONG) as broker,
            SyncAgent("a", url=broker.url, token="t") as agent,
        ):
            broker.drop(0)
            found = self.session(broker, agent, 1)
            self.assertGreater(found, 1)
            self.assertEqual(broker.ops(found)[:2], ["ping", "hello"])
            broker.wait(lambda said: said[1][-1]["op"] == "(gone)")
            self.assertEqual(broker.ops(1), ["ping", "(gone)"])

    def test_the_first_connection_is_tried_again_as_well(self) -> None:
        with (
            patch("postbell.patience.SIGN_WAIT_FIRST_SECONDS", 0.1),
            fake([], on_question=lambda number: PONG if number else None) as broker,
            SyncAgent("a", url=broker.url, token="t") as agent,
        ):
            self.assertGreater(self.session(broker, agent, 0), 0)
            broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
            self.assertEqual(broker.ops(0), ["ping", "(gone)"])

    def test_an_older_broker_is_told_hello(self) -> None:
        with (
            fake([], on_question=lambda _: error("hello_expected")) as broker,
            SyncAgent("a", url=broker.url, token="t") as agent,
        ):
            self.assertEqual(self.session(broker, agent, 1), 1)
            broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
            self.assertEqual((broker.ops(0), broker.ops(1)[0]), (["ping", "(gone)"], "hello"))

    def test_a_refusal_of_the_question_is_the_brokers(self) -> None:
        with fake([], on_question=lambda _: error("busy", retry_ms=250)) as broker:
            with self.assertRaises(Refused) as refused:
                SyncAgent("a", url=broker.url, token="t").connect()
            self.assertEqual((refused.exception.code, refused.exception.retry_seconds), ("busy", 0.25))
            broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
            self.assertEqual([broker.ops(number) for number in range(len(broker.said))], [["ping", "(gone)"]])

    def test_what_is_no_pong_is_no_broker(self) -> None:
        for answer in (b'{"op":"welcome"}', b"220 mail.example.com ESMTP", b"x" * 100_000):
            with self.subTest(answer[:30]), fake([], on_question=lambda _, answer=answer: answer) as broker:
                with self.assertRaises(NoBroker):
                    SyncAgent("a", url=broker.url, token="t").connect()
                broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
                self.assertEqual(broker.ops(0), ["ping", "(gone)"])


class Asked(unittest.IsolatedAsyncioTestCase):
    """By the connector alone."""

    async def test_a_frozen_broker_is_asked_again_and_again_but_not_for_ever(self) -> None:
        # Nobody accepts: the kernel does, as for a process that is frozen.
        with (
            socket.create_server(("127.0.0.1", 0)) as frozen,
            patch("postbell.patience.SIGN_WAIT_FIRST_SECONDS", 0.05),
            patch("postbell.connector.CONNECT_WAIT_SECONDS", 0.5),
        ):
            for scheme in ("tcp", "tcp+tls"):
                url = f"{scheme}://127.0.0.1:{frozen.getsockname()[1]}"
                with self.subTest(scheme), self.assertRaisesRegex(TimedOut, r"did not answer in 0\.5 s"):
                    await asyncio.wait_for(Connector(read("a", token="t", url=url)).connect(0), WAIT_SECONDS)
                connections = frozen_connections(frozen)
                self.assertGreater(connections, 1)

    async def test_it_learns_how_long_the_answer_took(self) -> None:
        with fake([]) as broker, patch("postbell.connector.Patience") as patience:
            patience.return_value.wait = CONNECT_WAIT_SECONDS
            connection = await Connector(read("a", token="t", url=broker.url)).connect(0)
            connection.abort_unless_closed()
            patience.return_value.silent.assert_not_called()
            [[took], _] = patience.return_value.answered.call_args
            self.assertGreater(took, 0)

    async def test_a_connection_that_ends_before_the_pong_is_unreachable(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with self.assertRaisesRegex(Unreachable, "closed the connection before it said pong"):
            await Connector(read("a", token="t", url=url)).connect(0)
        server.close()
