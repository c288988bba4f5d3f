"""The protocol without sockets: bytes in, bytes out, and the time is given."""

from __future__ import annotations

import json
import unittest

from postbell import Interrupted, Invalid, NoBroker, PostbellError, Refused, Unreachable
from postbell.address import Address, parse_url
from postbell.asking import Asking
from postbell.frames import CutLine, Frame, LineSplitter, Welcome, decode, encode, welcome
from postbell.limits import ACK_TAGS_MAX, ANSWERS_MAX, QUESTIONS_OVER_MAX, RESUMED_MAX
from postbell.message import Facts
from postbell.pending import Held, Pending
from postbell.session import Draining, Pushed, Session, Stray

HEARTBEAT = 10.0


def line(**frame: object) -> bytes:
    return json.dumps(frame).encode() + b"\n"


def pushed(tag: int, deadline_ms: int = 4000) -> bytes:
    return line(op="msg", tag=tag, deadline_ms=deadline_ms, id=f"m{tag}")


class Told:
    """Keeps what somebody who asked was told."""

    def __init__(self) -> None:
        self.all: list[Frame | PostbellError] = []

    def __call__(self, result: Frame | PostbellError) -> None:
        self.all.append(result)


class Lines(unittest.TestCase):
    def test_they_are_the_same_whatever_the_pieces(self) -> None:
        stream, wanted = b'{"a":1}\r\n\nlonger line\nrest', [b'{"a":1}', b"", b"longer line"]
        for size in range(1, len(stream) + 1):
            splitter = LineSplitter()
            pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
            self.assertEqual([line for piece in pieces for line in splitter.feed(piece)], wanted, size)

    def test_of_a_line_that_is_too_long_the_beginning_is_kept_and_the_next_one_is_whole(self) -> None:
        stream = b"0123456789\n0123456789abcdef\n42\n"
        for size in range(1, len(stream) + 1):
            splitter = LineSplitter(10)
            lines = [line for at in range(0, len(stream), size) for line in splitter.feed(stream[at : at + size])]
            self.assertEqual(lines, [b"0123456789", b"0123456789", b"42"], size)
            self.assertEqual([type(line) is CutLine for line in lines], [False, True, False], size)

    def test_a_line_that_never_ends_ends_the_connection(self) -> None:
        splitter = LineSplitter(10, discard_max=100)
        splitter.feed(b"x" * 110)
        with self.assertRaises(NoBroker):
            splitter.feed(b"x")

    def test_a_frame_leaves_out_what_was_not_given_but_not_a_payload(self) -> None:
        frame = {"op": "send", "to": "ž", "topic": None, "payload": None}
        self.assertEqual(encode(frame), '{"op":"send","to":"ž","payload":null}\n'.encode())

    def test_what_is_no_frame_is_no_broker_where_a_welcome_must_come(self) -> None:
        for bad in (b"220 ESMTP", b"[]", b"{}", b'{"op":1}', b"\xff", b"[" * 100_000):
            with self.assertRaises((ValueError, RecursionError)):
                decode(bad)
            with self.assertRaises(NoBroker):
                welcome(bad)

    def test_a_welcome_or_why_not(self) -> None:
        good = {"op": "welcome", "broker": "b", "session": 7, "heartbeat_ms": 1500, "limits": {"payload_bytes": 9}}
        self.assertEqual(welcome(line(**good)), Welcome("b", 7, 1.5, 9))
        odd_fields: dict[str, list[object]] = {"session": ["7", 1.5], "heartbeat_ms": [0, True, "x"], "limits": [[], {}, 1]}
        for name, value in [(name, value) for name, values in odd_fields.items() for value in values]:
            with self.assertRaises(NoBroker, msg=name):
                welcome(line(**good | {name: value}))
        with self.assertRaises(NoBroker):
            welcome(line(op="welcome"))
        # A newer broker's field that Python does not hold is not ours.
        odd = line(**good).replace(b"}}", b'},"more":1' + b"0" * 5_000 + b"}")
        self.assertEqual(welcome(odd), Welcome("b", 7, 1.5, 9))
        with self.assertRaisesRegex(Refused, r"^come again \(busy\)$") as refused:
            welcome(line(op="error", code="busy", message="come again", retry_ms=250))
        self.assertEqual((refused.exception.retry_seconds, refused.exception.is_retryable), (0.25, True))


class Urls(unittest.TestCase):
    def test_an_address_is_a_host_and_a_port(self) -> None:
        for url, address in {
            "tcp://h:1": Address("h", 1, False),
            "tcp://h/": Address("h", 7440, False),
            "localhost:7441": Address("localhost", 7441, False),
            "tcp://[::1]": Address("::1", 7440, False),
            "tcp+tls://[::1]:9": Address("::1", 9, True),
        }.items():
            self.assertEqual(parse_url(url), address)
        self.assertEqual(str(parse_url("tcp://[::1]")), "[::1]:7440")
        for bad in ("", "tcp://", "tcp://:1", "tcp://h:x", "tcp://h:70000", "tcp://u:p@h:1", "tcp+tls://", "tls://h:1"):
            with self.assertRaisesRegex(Invalid, "must look like tcp://host:7440", msg=bad):
                parse_url(bad)


class Requests(unittest.TestCase):
    def refs(self, lines: list[bytes]) -> list[int]:
        return [int(json.loads(line)["ref"]) for line in lines]

    def send(self, pending: Pending, key: str | None = None) -> Told:
        told = Told()
        pending.send({"op": "send", "payload": 1, "dedupe_key": key}, told, is_connected=True)
        return told

    def test_what_was_refused_goes_again_before_what_came_after_it(self) -> None:
        pending = Pending()
        told = [self.send(pending) for _ in range(3)]
        pending.answered({"ref": "1", "id": "x"})
        self.assertTrue(pending.slow_down("2", 50) and pending.slow_down("3", 40))
        self.assertFalse(pending.slow_down("1", 50) or pending.slow_down("x", 50))
        told.append(self.send(pending))
        self.assertEqual((pending.resume_at, pending.take_due(49)), (50, []))
        self.assertEqual(self.refs(pending.take_due(50)), [2, 3, 4])
        self.assertEqual((pending.resume_at, pending.take_due(51)), (None, []))
        self.assertEqual([one.all for one in told[1:]], [[], [], []], "nobody was told of a refusal")

    def test_those_that_were_held_are_under_way_in_a_bounded_number(self) -> None:
        pending = Pending()
        for n in range(1, 1001):
            self.send(pending)
            pending.slow_down(str(n), 0)
        self.assertEqual(len(pending.take_due(1)), RESUMED_MAX)
        self.assertEqual(pending.take_due(1), [], "until one is answered")
        pending.answered({"ref": "1", "id": "x"})
        self.assertEqual(self.refs(pending.take_due(1)), [RESUMED_MAX + 1])

    def test_a_connection_that_fell_is_told_to_those_that_cannot_be_repeated(self) -> None:
        pending, asked = Pending(), Told()
        plain, keyed, held = self.send(pending), self.send(pending, "k"), self.send(pending)
        pending.slow_down("3", 10)
        pending.ask({"op": "ack", "tag": 1}, asked)
        pending.interrupted()
        self.assertEqual([type(one.all[0]) for one in (plain, asked)], [Interrupted, Interrupted])
        self.assertEqual(keyed.all + held.all, [])
        self.assertEqual(self.refs(pending.take_due(10)), [2, 3])

    def test_what_was_given_up_is_never_written(self) -> None:
        pending = Pending()
        reference, written = pending.send({"op": "send"}, Told(), is_connected=False)
        self.assertIsNone(written)
        pending.forget(reference)
        self.assertEqual((pending.take_due(0), pending.is_empty), ([], True))


class Questions(unittest.TestCase):
    def answer(self, correlation_id: str | None, kind: str = "response", n: int = 0) -> Facts:
        more = {"correlation_id": correlation_id} if correlation_id else {}
        return Facts({"id": "m", "from": "a", "type": kind, "created_at": "2026-11-24T02:00:00Z", "payload": n} | more)

    def test_an_answer_is_known_by_its_correlation_id_and_a_late_one_too(self) -> None:
        asking = Asking()
        with asking.question() as first, asking.question() as second:
            self.assertNotEqual(first.correlation_id, second.correlation_id)
            for n, question in enumerate((second, first)):
                answer = self.answer(question.correlation_id, n=n)
                self.assertTrue(asking.is_answer(answer) and asking.answered(answer))
            for other in (self.answer(None), self.answer("x"), self.answer(first.correlation_id, "query")):
                self.assertFalse(asking.is_answer(other))
            replies = [first.take(), second.take()]
            self.assertEqual([reply and reply.payload for reply in replies], [1, 0])
            self.assertIsNone(first.take())
        late = self.answer(first.correlation_id)
        self.assertTrue(asking.is_answer(late))
        self.assertFalse(asking.answered(late))

    def test_headers_that_are_no_object_are_none(self) -> None:
        frame = {"id": "m", "from": "a", "type": "query", "created_at": "2026-11-24T02:00:00Z"}
        for headers, reply_to in (({"reply_to": "i"}, "i"), ({"reply_to": 1}, None), (["reply_to"], None), (None, None)):
            self.assertEqual(Facts(frame | {"headers": headers}).reply_to, reply_to)
        self.assertEqual(Facts(frame | {"headers": "text"}).headers, {})

    def test_neither_answers_nor_questions_that_are_over_are_kept_without_bound(self) -> None:
        asking = Asking()
        with asking.question() as question:
            answer = self.answer(question.correlation_id)
            self.assertEqual([asking.answered(answer) for _ in range(ANSWERS_MAX + 1)].count(False), 1)
        for _ in range(QUESTIONS_OVER_MAX):
            with asking.question():
                pass
        self.assertFalse(asking.is_answer(answer), "the oldest is forgotten")


class Holding(unittest.TestCase):
    def test_a_held_delivery_is_extended_again_and_again_until_it_is_settled(self) -> None:
        held = Held()
        held.insert(0, 1, 2)
        held.insert(0, 2, 20)
        self.assertEqual([held.take_due(now) for now in (0.9, 1, 2)], [[], [(1, 2)], [(1, 2)]])
        held.remove(1)
        self.assertEqual(held.next_due(), 10)
        held.remove(2)
        self.assertEqual((held.next_due(), len(held)), (None, 0))

    def test_what_was_settled_is_not_kept(self) -> None:
        held = Held()
        for tag in range(10_000):
            held.insert(0, tag, 86_400)
            held.remove(tag)
        self.assertLess(len(held._due), 100)


class Sessions(unittest.TestCase):
    def setUp(self) -> None:
        self.pending = Pending()
        self.acked: list[list[str]] = []
        welcome = Welcome("b", 1, HEARTBEAT, 1000)
        self.session = Session(welcome, self.pending, 0.0, "h:1", lambda keys, _: self.acked.append(keys))

    def written(self, now: float = 0.0) -> list[Frame]:
        return [json.loads(line) for line in self.session.take_output(now).splitlines()]

    def test_what_is_pushed_comes_out_and_is_extended(self) -> None:
        self.assertEqual([type(event) for event in self.session.receive(pushed(1) + pushed(2), 1)], [Pushed, Pushed])
        self.assertEqual(self.session.wake_at, 3)
        self.session.tick(3)
        self.assertEqual(self.written(3), [{"op": "extend", "tag": tag, "ms": 4000} for tag in (1, 2)])

    def test_acks_of_one_write_are_one_line_and_each_is_told(self) -> None:
        self.session.receive(pushed(1) + pushed(2), 0)
        self.session.ack(1, "first")
        self.session.ack(2, "second")
        self.session.ack(2, "second")
        self.assertEqual(self.written(), [{"op": "ack", "tags": [1, 2], "ref": "1"}])
        self.session.receive(line(op="acked", ref="1"), 0)
        self.assertEqual(self.acked, [["first", "second"]])

    def test_an_ack_is_said_before_goodbye(self) -> None:
        self.session.receive(pushed(1) + pushed(2), 0)
        self.session.ack(1, "first")
        self.session.goodbye([2])
        self.assertEqual(
            self.written(),
            [{"op": "begun", "tag": 2}, {"op": "ack", "tags": [1], "ref": "1"}, {"op": "bye"}],
        )

    def test_no_ack_has_more_tags_than_the_broker_takes(self) -> None:
        for tag in range(ACK_TAGS_MAX + 1):
            self.session.receive(pushed(tag), 0)
            self.session.ack(tag, "m")
        self.assertEqual([len(frame["tags"]) for frame in self.written()], [ACK_TAGS_MAX, 1])

    def test_a_nack_says_what_and_why_within_bounds(self) -> None:
        self.session.receive(pushed(1), 0)
        self.session.nack(1, "fail", delay_ms=20, reason="ž" * 1000)
        self.session.nack(1, "dead", reason="settled already")
        self.assertEqual(self.written(), [{"op": "nack", "tag": 1, "outcome": "fail", "delay_ms": 20, "reason": "ž" * 500}])

    def test_it_says_that_it_lives_and_notices_that_the_broker_does_not(self) -> None:
        self.assertEqual(self.session.wake_at, HEARTBEAT / 2)
        self.session.tick(HEARTBEAT / 2)
        self.assertEqual(self.written(HEARTBEAT / 2), [{"op": "ping"}])
        self.session.receive(line(op="ping"), HEARTBEAT)
        self.assertEqual(self.written(HEARTBEAT), [{"op": "pong"}])
        self.session.tick(3 * HEARTBEAT - 0.1)
        with self.assertRaisesRegex(Unreachable, "h:1 .* silent"):
            self.session.tick(3 * HEARTBEAT)

    def test_slow_down_is_nobodys_business_and_the_send_goes_again(self) -> None:
        told = Told()
        self.session.send({"op": "send", "payload": 1}, told)
        self.written()
        self.assertEqual(self.session.receive(line(op="error", code="slow_down", message="", ref="1", retry_ms=500), 1), [])
        self.assertEqual((self.session.wake_at, self.written(1.4)), (1.5, []))
        self.assertEqual(self.written(1.5), [{"op": "send", "payload": 1, "ref": "1"}])
        self.session.receive(line(op="sent", ref="1", id="x"), 2)
        self.assertEqual(told.all, [{"op": "sent", "ref": "1", "id": "x"}])

    def test_a_refusal_is_told_to_whoever_asked_and_a_fatal_one_ends_it(self) -> None:
        told = Told()
        self.session.ask({"op": "subscribe", "topic": "a..b"}, told)
        refusal = {"op": "error", "code": "bad_field", "message": "no", "fatal": False}
        self.assertEqual(self.session.receive(line(**refusal, ref="1"), 0), [])
        self.assertIsInstance(told.all[0], Refused)
        [stray] = self.session.receive(line(**refusal), 0)
        self.assertIsInstance(stray, Stray)
        with self.assertRaises(Refused) as refused:
            self.session.receive(line(op="error", code="taken_over", message="a newer one", fatal=True), 0)
        self.assertTrue(refused.exception.is_final)

    def test_it_leaves_a_broker_that_stops_once_nothing_keeps_it(self) -> None:
        self.session.receive(pushed(1), 0)
        self.assertEqual(self.session.receive(line(op="drain", after_ms=2000), 0), [Draining(2.0)])
        self.assertFalse(self.session.is_drained, "one is held")
        self.session.ack(1, "m")
        self.assertFalse(self.session.is_drained, "its ack is not written")
        self.written()
        self.assertFalse(self.session.is_drained, "nor answered")
        self.session.receive(line(op="acked", ref="1"), 0)
        self.assertTrue(self.session.is_drained)

    def test_an_op_of_a_newer_brokers_is_passed_over(self) -> None:
        self.assertEqual(self.session.receive(line(op="dance"), 0), [])
        for bad in (line(op="msg"), line(op="msg", tag=True, deadline_ms=1), b"220 ESMTP\n", b"\xff\n", b"[]\n", b"\n"):
            self.assertEqual(self.session.receive(bad, 0), [], "nobody can be told of it")
        self.assertEqual(self.session.receive(line(op="drain"), 0), [Draining(0.0)])
        [event] = self.session.receive(line(op="msg", tag=1), 0)
        self.assertEqual(event, Pushed(1, {"op": "msg", "tag": 1}, "deadline_ms is no time"))
