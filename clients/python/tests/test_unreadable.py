"""Lines that Python does not hold: the message is a dead letter with the reason, and nobody else is concerned."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import time
import unittest
from typing import Any

from postbell import Agent, SyncAgent, Unreadable
from postbell.limits import LINE_BYTES_MAX
from postbell.salvage import Unread, salvage

from .fake import FACES, KINDS, Frame, drain, fake, handler, msg
from .mesh import WAIT_SECONDS, mesh
from .require import needs

#: Deeper than the interpreter reads: since 3.12 that is another bound than `sys.getrecursionlimit`.
LEVELS = 2_000 if sys.version_info < (3, 12) else 200_000
DEEP = "[" * LEVELS + "]" * LEVELS
DIGITS = "7" * 5_000

#: The text of a value, and what is said of it.
VALUES = {
    DIGITS: "a number of 5,000 digits",
    f"-{DIGITS}": "a number of 5,000 digits",
    f'{{"a":[1,{DIGITS}]}}': "a number of 5,000 digits",
    "1E99999": "larger than a float can be",
    "[-1e400]": "larger than a float can be",
    "9" * 400 + ".5": "larger than a float can be",
    DEEP: "nested deeper than Python reads",
    '{"a":' * (LEVELS // 2) + "1" + "}" * (LEVELS // 2): "nested deeper than Python reads",
    '"\\ud800"': "half a surrogate pair",
    '{"\\udc00":1}': "half a surrogate pair",
    '["\\ud83d","\\ude00"]': "half a surrogate pair",
    "NaN": "NaN, which is no JSON",
    "[-Infinity]": "-Infinity, which is no JSON",
    '"\udcff"': "bytes that are no UTF-8",
    "[1,]": "it is no JSON",
    "tru": "it is no JSON",
    '"\t"': "it is no JSON",
}
READABLE = {
    "7" * 4_300: int("7" * 4_300),
    "1e-99999": 0.0,
    '"\\ud83d\\ude00"': "😀",
    '"\\\\ud800"': "\\ud800",
    '{"a":1,"a":2}': {"a": 2},
    "[" * 500 + "]" * 500: None,
    "-0.0": -0.0,
    '"' + "x" * 900_000 + '"': None,
}


def raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


class Payloads(unittest.TestCase):
    def test_it_is_dead_with_the_reason_and_its_neighbours_are_handled(self) -> None:
        lines = [line for n, text in enumerate(VALUES) for line in (msg(2 * n, raw(text)), msg(2 * n + 1))]
        for face in FACES:
            for kind in KINDS:
                handled: list[str] = []

                def handle(message: Any, handled: list[str] = handled) -> None:
                    handled.append(message.id)

                with self.subTest(face=face, kind=kind), fake(lines) as broker:
                    summary = drain(face, broker.url, handler(kind, handle))
                    outcomes = broker.outcomes()
                    for n, said in enumerate(VALUES.values()):
                        self.assertRegex(outcomes[2 * n], f"^dead: the Python client cannot read it: payload: .*{said}")
                        self.assertEqual(outcomes[2 * n + 1], "ack")
                    self.assertEqual(len(broker.said), 1, "it is the first connection still")
                    self.assertEqual((int(summary), summary.handled, summary.dead), (17, 17, 17))
                    self.assertEqual(len(handled), len(VALUES))

    def test_what_python_holds_is_exact(self) -> None:
        lines = [msg(n, raw(text)) for n, text in enumerate(READABLE)]
        for face in FACES:
            got: dict[str, Any] = {}

            def handle(message: Any, got: dict[str, Any] = got) -> None:
                got[message.id] = message.payload

            with self.subTest(face), fake(lines) as broker:
                drain(face, broker.url, handler("def", handle))
                self.assertEqual(set(broker.outcomes().values()), {"ack"})
            for n, wanted in enumerate(READABLE.values()):
                if wanted is not None:
                    self.assertEqual(got[f"m{n}"], wanted)

    @needs(hasattr(sys, "set_int_max_str_digits"), "this interpreter has no such setting")
    def test_no_interpreter_setting_makes_a_number_a_weapon(self) -> None:
        before, depth = sys.get_int_max_str_digits(), sys.getrecursionlimit()
        # A megabyte of digits takes a second of the square of it; a hundred thousand levels a whole stack.
        lines = [msg(1, "7" * 900_000), msg(2, "[" * 400_000 + "]" * 400_000), msg(3)]
        try:
            sys.set_int_max_str_digits(0)
            sys.setrecursionlimit(1_000_000)
            with fake(lines) as broker:
                drain("async", broker.url, handler("def", lambda _: None))
                self.assertRegex(broker.outcomes()[1], "a number of 900,000 digits")
                self.assertRegex(broker.outcomes()[2], "nested deeper")
                self.assertEqual(broker.outcomes()[3], "ack")
            sys.set_int_max_str_digits(640)
            with fake([msg(1, "7" * 700), msg(2)]) as broker:
                drain("async", broker.url, handler("def", lambda _: None))
                self.assertRegex(broker.outcomes()[1], "more digits than this Python reads")
        finally:
            sys.set_int_max_str_digits(before)
            sys.setrecursionlimit(depth)

    def test_a_hostile_megabyte_takes_no_longer_than_its_neighbours_can_wait(self) -> None:
        texts = ("[" * 960_000, "[0," * 320_000, '["",' * 240_000, '[{"":' * 190_000, "[" + '"a",' * 240_000 + "NaN]")
        lines = [line for n, text in enumerate(texts) for line in (msg(2 * n, text), msg(2 * n + 1))]
        before = time.process_time()
        with fake(lines) as broker:
            drain("async", broker.url, handler("def", lambda _: None))
            for n in range(len(texts)):
                self.assertTrue(broker.outcomes()[2 * n].startswith("dead: "))
                self.assertEqual(broker.outcomes()[2 * n + 1], "ack")
        # The time is this process's, the fake broker's included: read bracket by bracket the texts take many times that.
        self.assertLess(time.process_time() - before, 3)

    def test_the_payload_need_not_be_the_last_field(self) -> None:
        lines = []
        # Longer ones are not looked through to their end.
        values = [text for text in VALUES if len(text) < 50_000]
        for n, text in enumerate(values):
            frame = json.loads(msg(2 * n).decode())
            frame = {"payload": "HERE"} | {key: value for key, value in frame.items() if key != "payload"}
            lines += [raw(json.dumps(frame).replace('"HERE"', text)), msg(2 * n + 1)]
        with fake(lines) as broker:
            drain("async", broker.url, handler("def", lambda _: None))
            for n in range(len(values) - 3):
                # But for the last three, where nobody knows where the payload ends.
                self.assertTrue(broker.outcomes()[2 * n].startswith("dead: "), n)
            for n in range(len(values)):
                self.assertEqual((broker.outcomes()[2 * n + 1], len(broker.said)), ("ack", 1))

    def test_nothing_of_a_payload_is_in_the_log(self) -> None:
        lines = [msg(n, raw(f'{{"secret":["hunter2",{text}]}}')) for n, text in enumerate(VALUES)]
        with fake(lines) as broker, self.assertLogs("postbell", "DEBUG") as log:
            drain("async", broker.url, handler("def", lambda _: None))
        self.assertIn("is a dead letter", "".join(log.output))
        self.assertNotIn("hunter2", "".join(log.output))
        self.assertNotIn("7777", "".join(log.output))


class Fields(unittest.TestCase):
    def test_any_field_may_be_one_that_cannot_be_read(self) -> None:
        lines, tag = [], 0
        fields = (
            "attempt",
            "deadline_ms",
            "id",
            "from",
            "type",
            "priority",
            "created_at",
            "topic",
            "headers",
            "correlation_id",
        )
        for field in fields:
            for text in VALUES:
                tag += 1
                whole = json.loads(msg(tag).decode()) | {field: "HERE"}
                lines.append(raw(json.dumps(whole).replace('"HERE"', text)))
        lines.append(msg(tag + 1))
        for face in FACES:
            with self.subTest(face), fake(lines) as broker:
                drain(face, broker.url, handler("def", lambda _: None))
                outcomes = broker.outcomes()
                for n in range(1, tag + 1):
                    self.assertRegex(outcomes[n], "^dead: the Python client cannot read it: ")
                self.assertEqual((outcomes[tag + 1], len(broker.said)), ("ack", 1))

    def test_fields_of_another_type_end_nothing(self) -> None:
        odd: tuple[Any, ...] = (None, True, -1, 10**400, 1e300, "", "x", [], {}, ["x"], {"a": 1})
        lines, tag = [], 0
        for field in ("attempt", "deadline_ms", "id", "from", "type", "priority", "created_at", "topic", "headers"):
            for value in odd:
                tag += 1
                fields: dict[str, Any] = {field: value}
                lines.append(msg(tag, **fields))
        lines += [msg(tag + 1 + n, type="response", correlation_id=value) for n, value in enumerate(odd)]
        tag += len(odd)

        def look(message: Any) -> None:
            # No look at a message raises, whatever a table may hold.
            _ = (
                message.priority + message.attempt,
                message.topic,
                message.group,
                message.headers,
                message.reply_to,
                repr(message),
            )

        for face in FACES:
            with self.subTest(face), fake([*lines, msg(tag + 1)]) as broker:
                drain(face, broker.url, handler("def", look))
                outcomes = broker.outcomes()
                self.assertEqual(outcomes.keys(), set(range(1, tag + 2)), "something became of each")
                self.assertEqual((outcomes[tag + 1], len(broker.said)), ("ack", 1))
                self.assertEqual({outcome.partition(":")[0] for outcome in outcomes.values()}, {"ack", "dead"})

    def test_times_that_python_has_not_are_the_nearest(self) -> None:
        years = {
            "infinity": 9999,
            "-infinity": 1,
            "294276-01-01T00:00:00Z": 9999,
            "-0044-03-15T00:00:00Z": 1,
            "0044-03-15 BC": 1,
        }
        got = {}
        with fake([msg(n, created_at=text) for n, text in enumerate(years)]) as broker:
            drain("async", broker.url, handler("def", lambda message: got.update({message.id: message.created_at.year})))
        self.assertEqual(list(got.values()), list(years.values()))

    def test_lines_that_name_no_delivery_are_passed_over(self) -> None:
        odd = [
            b"",
            b"220 mail ESMTP",
            b"[]",
            b"{}",
            b'{"op":1}',
            b"\xff\xfe",
            b"null",
            b'{"op":"msg"}',
            raw(DEEP),
            b'{"op":"error"}',
        ]
        odd += [b'{"op":"msg","tag":"1","payload":1}', b'{"op":"acked","ref":[]}']
        odd += [b'{"op":"sent","ref":{}}', b'{"op":"error","retry_ms":"x","fatal":"no"}', b'{"op":"pong","x":NaN}']
        for face in FACES:
            with self.subTest(face), fake([msg(1), *odd, msg(2)]) as broker:
                drain(face, broker.url, handler("async def", lambda _: None))
                self.assertEqual((broker.outcomes(), len(broker.said)), ({1: "ack", 2: "ack"}, 1))

    def test_a_line_that_is_too_long_is_dead_by_its_beginning(self) -> None:
        long = msg(1, '"' + "x" * (LINE_BYTES_MAX + 5) + '"')
        with fake([long, msg(2)]) as broker:
            drain("async", broker.url, handler("def", lambda _: None))
            self.assertRegex(broker.outcomes()[1], "dead: .* the line has more than 1048576 bytes")
            self.assertEqual((broker.outcomes()[2], len(broker.said)), ("ack", 1))


class Answers(unittest.TestCase):
    def answered(self, text: str) -> Any:
        def on_send(frame: Frame) -> list[bytes]:
            more = {"type": "response", "correlation_id": frame["correlation_id"], "from": "inventory"}
            return [msg(1, raw(text), **more), msg(2, "2", **more)]

        return fake([], on_send=on_send)

    def test_whoever_asked_is_told_which_answer_and_why(self) -> None:
        for text, said in VALUES.items():
            with self.subTest(said), self.answered(text) as broker:
                with SyncAgent("a", url=broker.url, token="t") as agent:
                    with self.assertRaisesRegex(Unreadable, f"the answer m1 of inventory cannot be read: payload: .*{said}"):
                        agent.request(to="inventory", payload=1, timeout=WAIT_SECONDS)
                    self.assertTrue(agent.is_connected)
                self.assertRegex(broker.outcomes()[1], "^dead: ")
                self.assertEqual(len(broker.said), 1)

    def test_of_many_answers_the_others_are_there(self) -> None:
        async def asked(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                replies = await agent.request_all(topic="x", timeout=WAIT_SECONDS, count=2)
                self.assertEqual([reply.sender for reply in replies], ["inventory", "inventory"])
                self.assertIsNone(replies[1].fault)
                self.assertEqual(replies[1].payload, 2)
                with self.assertRaisesRegex(Unreadable, "5,000 digits"):
                    _ = replies[0].payload

        with self.answered(DIGITS) as broker:
            asyncio.run(asked(broker.url))

    def test_an_answer_of_the_brokers_own_is_its_askers_error(self) -> None:
        def on_send(frame: Frame) -> list[bytes]:
            return []

        with fake([], on_send=on_send) as broker, SyncAgent("a", url=broker.url, token="t") as agent:
            broker._answers = lambda frame, said: [f'{{"op":"sent","ref":"{frame.get("ref")}","id":{DIGITS}}}'.encode()]  # type: ignore[method-assign]
            with self.assertRaisesRegex(Unreadable, "cannot be read"):
                agent.send(to="b", payload=1)
            broker._answers = lambda frame, said: [f'{{"op":"sent","ref":"{frame.get("ref")}"}}'.encode()]  # type: ignore[method-assign]
            with self.assertRaisesRegex(Unreadable, "has no id"):
                agent.send(to="b", payload=1)
            self.assertTrue(agent.is_connected)

    def test_one_dead_letter_does_not_hide_a_page_of_them(self) -> None:
        letter = {"message_id": "m", "inbox": "a", "from": "b", "type": "data", "priority": 5, "attempts": 1}
        letters = [letter | {"id": n, "payload": "HERE" if n == 1 else n} for n in range(3)]
        page = json.dumps({"op": "dead_letters", "ref": "1", "letters": letters, "more": False}).replace('"HERE"', DEEP)
        with fake([]) as broker, SyncAgent("a", url=broker.url, token="t") as agent:
            broker._answers = lambda frame, said: [page.encode()]  # type: ignore[method-assign]
            found = agent.dead_letters()
            self.assertEqual([letter.payload for letter in found.letters], [0, None, 2])
            self.assertIn("nested deeper", str(found.letters[1].fault))


class Generated(unittest.TestCase):
    """Lines of every kind, by a seed."""

    def test_the_agent_lives_and_no_neighbour_loses_an_attempt(self) -> None:
        for seed in range(6):
            rng = random.Random(seed)
            lines, good, bad = [], set(), set()
            for tag in range(1, 200):
                whole = msg(tag, raw(rng.choice(list(READABLE)[:6])))
                match rng.randrange(6):
                    case 0:
                        lines.append(msg(tag, raw(rng.choice(list(VALUES)))))
                        bad.add(tag)
                    case 1:
                        # Cut somewhere: what is left may say whose it is, or not.
                        lines.append(whole[: rng.randrange(len(whole))])
                    case 2:
                        lines.append(rng.randbytes(rng.randrange(200)).replace(b"\n", b""))
                    case 3:
                        text = whole.decode().replace('"headers"', "")
                        place = rng.choice([at for at, letter in enumerate(text) if letter in ',{}[]":'])
                        lines.append(
                            (text[:place] + rng.choice([",", "}", "]", '"', "\\", "[[", "{"]) + text[place:]).encode()
                        )
                    case _:
                        lines.append(whole)
                        good.add(tag)
            for face in FACES:
                with self.subTest(seed=seed, face=face), fake(lines) as broker:
                    drain(face, broker.url, handler(rng.choice(KINDS), lambda _: None), concurrency=4)
                    outcomes = broker.outcomes()
                    self.assertEqual({tag for tag in good if outcomes.get(tag) != "ack"}, set())
                    self.assertEqual({tag for tag in bad if not outcomes.get(tag, "").startswith("dead: ")}, set())
                    self.assertEqual(len(broker.said), 1, "it is the first connection still")

    def test_salvage_reads_what_json_reads(self) -> None:
        rng = random.Random(1)

        def value(depth: int) -> Any:
            kind = rng.randrange(8 if depth < 4 else 5)
            if kind < 5:
                return rng.choice([None, True, rng.randrange(-(10**6), 10**6), rng.random(), 'a"\\[{,}]: ž😀', ""])
            if kind == 5:
                return [value(depth + 1) for _ in range(rng.randrange(4))]
            return {rng.choice(["a", "b", 'c"', "\\"]): value(depth + 1) for _ in range(rng.randrange(4))}

        for _ in range(500):
            frame = {f"k{n}": value(0) for n in range(rng.randrange(6))}
            text = json.dumps(frame, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
            self.assertEqual(salvage(text.encode()), (frame, None))
            odd, reason = salvage(text.encode()[:-1].rstrip() + (b"," if frame else b"") + b'"odd":NaN,"even":1}')
            self.assertEqual((odd.pop("odd"), odd.pop("even"), reason), (Unread("it has NaN, which is no JSON"), 1, None))
            self.assertEqual(odd, frame)


class Broker(unittest.TestCase):
    """The real one, whose tables hold more than Python does."""

    def test_what_another_language_sent_is_a_dead_letter(self) -> None:
        who, peer = mesh().agent("reader"), mesh().agent("writer")
        # Postgres itself reads no 200,000 levels.
        texts = [DIGITS, "1E99999", "[" * 2_000 + "]" * 2_000 if sys.version_info < (3, 12) else f"[{DIGITS}]"]
        host, _, port = peer.url.removeprefix("tcp://").partition(":")
        with socket.create_connection((host, int(port))) as writer, writer.makefile("rb") as lines:
            writer.sendall(json.dumps({"op": "hello", "agent": peer.name, "token": peer.token, "window": 0}).encode() + b"\n")
            lines.readline()
            for n, text in enumerate((*texts, "1")):
                head = f'{{"op":"send","ref":"{n}","to":"{who.name}","type":"data","payload":'
                writer.sendall((head + text + "}\n").encode())
                self.assertIn(b'"sent"', lines.readline())
        for face in FACES:
            if face == "sync":
                with who.sync_agent() as redriver:
                    self.assertEqual(redriver.redrive(inbox=who.name), len(texts))
                    redriver.send(to=who.name, payload=1)
            handled: list[int] = []
            agent = who.sync_agent() if face == "sync" else who.agent()
            agent.on()(handler("def", lambda message, handled=handled: handled.append(message.attempt)))  # type: ignore[misc]
            if isinstance(agent, SyncAgent):
                with agent:
                    self.check(agent.drain(idle=1, failures_ok=True), handled)
            else:
                asyncio.run(self.drained(agent, handled))
        with who.sync_agent() as agent:
            page = agent.dead_letters()
            for letter in page.letters:
                self.assertRegex(str(letter.reason), "the Python client cannot read it: payload: ")

    async def drained(self, agent: Agent, handled: list[int]) -> None:
        async with agent:
            self.check(await agent.drain(idle=1, failures_ok=True), handled)

    def check(self, summary: Any, handled: list[int]) -> None:
        self.assertEqual((summary.handled, summary.dead), (1, 3), summary.sentence)
        self.assertEqual(handled, [1], "the neighbour loses no attempt")
