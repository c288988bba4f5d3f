"""However a handler ends, it is an outcome: the message is told of, the others are handled, and the process ends where it
must."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import subprocess
import sys
import textwrap
import unittest
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from postbell import Agent, Dead, Invalid, Message, Release, Retry, SyncAgent

from .fake import FACES, KINDS, WAIT_SECONDS, drain, fake, handler, msg

HERE = str(Path(__file__).resolve().parents[1])


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class HalfMadeRetry(Retry):
    def __init__(self) -> None:
        # Without its base's: there is no delay to ask for.
        pass


class OwnBase(BaseException):
    pass


class Group(Exception):
    """As `exceptiongroup` makes them before Python 3.11."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("several")
        self.exceptions = exceptions


def raising(make: Callable[[], BaseException]) -> Callable[[Any], None]:
    def call(message: Any) -> None:
        raise make()

    return call


#: The exceptions that are raised, and what the broker is told.
RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "an exception": (lambda: KeyError("county"), "fail: KeyError: 'county'"),
    "one without words": (ValueError, "fail: ValueError"),
    "one that cannot be told": (Untellable, "fail: Untellable"),
    "generator exit": (GeneratorExit, "fail: GeneratorExit"),
    "a leaked cancellation": (
        asyncio.CancelledError,
        "fail: CancelledError: something that the handler waited for was cancelled",
    ),
    "a base of one's own": (lambda: OwnBase("x"), "fail: OwnBase: x"),
    "stop iteration": (lambda: StopIteration(1), "fail: "),
    "stop async iteration": (lambda: StopAsyncIteration(1), "fail: "),
    "retry": (lambda: Retry(0.5, "later"), "fail: later"),
    "a retry without a delay of its own": (HalfMadeRetry, "fail: HalfMadeRetry"),
    "a retry with a delay that is none": (lambda: Retry(float("nan")), "fail: to be tried again; and delay must be"),
    "a retry with a word for a delay": (lambda: Retry("soon"), "fail: to be tried again; and delay must be"),  # type: ignore[arg-type]
    "a release for a year": (lambda: Release(1e9), "fail: release; and delay must be"),
    "release": (Release, "release: None"),
    "dead": (lambda: Dead("no such county"), "dead: no such county"),
    "dead without words": (lambda: Dead(None), "dead: "),  # type: ignore[arg-type]
    "dead of half a pair": (lambda: Dead("\ud800"), "dead: ?"),
    "a group": (lambda: Group(KeyError(1), ValueError(2)), "fail: Group: several"),
    "a group of one that is dead": (lambda: Group(Dead("within")), "dead: within"),
    "a group in a group": (lambda: Group(Group(Release())), "release: None"),
    "a reason of a megabyte": (lambda: ValueError("ž" * 500_000), "fail: ValueError: žž"),
}


class Raised(unittest.TestCase):
    def test_it_is_told_and_the_agent_goes_on(self) -> None:
        for name, (make, wanted) in RAISED.items():
            for face in FACES:
                for kind in KINDS:
                    with self.subTest(name, face=face, kind=kind), fake([msg(1), msg(2)]) as broker:
                        failing = raising(make)
                        seen: list[str] = []

                        def call(message: Any, failing: Any = failing, seen: list[str] = seen) -> None:
                            seen.append(message.id)
                            if message.id == "m1":
                                failing(message)

                        drain(face, broker.url, handler(kind, call), idle=0.1)
                        outcomes = broker.outcomes()
                        self.assertTrue(outcomes[1].startswith(wanted), outcomes)
                        self.assertEqual((outcomes[2], seen, len(broker.said)), ("ack", ["m1", "m2"], 1))

    def test_what_it_leaves_in_its_task_is_its_own(self) -> None:
        async def awaits_what_was_cancelled(message: Message) -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        async def cancels_itself(message: Message) -> None:
            task = asyncio.current_task()
            assert task
            task.cancel()
            await asyncio.sleep(0)

        async def cancels_itself_and_returns(message: Message) -> None:
            task = asyncio.current_task()
            assert task
            task.cancel()

        async def times_out(message: Message) -> None:
            await asyncio.wait_for(asyncio.sleep(10), 0.01)

        async def loses_a_task(message: Message) -> None:
            inner = asyncio.create_task(asyncio.sleep(10))
            asyncio.get_running_loop().call_later(0.01, inner.cancel)
            await asyncio.gather(inner)

        for face in FACES:
            for handle in (awaits_what_was_cancelled, cancels_itself, times_out, loses_a_task):
                with self.subTest(face, handle=handle), fake([msg(1), msg(2)]) as broker:
                    summary = drain(face, broker.url, handle)
                    self.assertEqual({outcome[:5] for outcome in broker.outcomes().values()}, {"fail:"})
                    self.assertEqual((int(summary), summary.failed, summary.lost), (2, 2, 2))
            with self.subTest(face), fake([msg(1), msg(2)]) as broker:
                self.assertEqual(int(drain(face, broker.url, cancels_itself_and_returns)), 2)
                self.assertEqual(broker.outcomes().keys(), {1, 2})

    def test_callables_that_only_wrap_what_does_it_are_waited_for(self) -> None:
        done: list[str] = []

        async def does(message: Message, more: str = "") -> None:
            await asyncio.sleep(0.01)
            done.append(message.id + more)

        class Called:
            async def __call__(self, message: Message) -> None:
                await does(message)

        wraps: list[Callable[[Any], Any]] = [lambda m: does(m), functools.partial(does, more="+"), Called()]
        for face in FACES:
            for wrap in wraps:
                with self.subTest(face), fake([msg(1)]) as broker:
                    done.clear()
                    drain(face, broker.url, wrap)
                    self.assertEqual((broker.outcomes(), len(done)), ({1: "ack"}, 1))

    def test_what_would_do_nothing_is_refused(self) -> None:
        def generates(message: Any) -> Any:
            yield message

        async def generates_async(message: Any) -> Any:
            yield message

        agent = SyncAgent("a", url="tcp://127.0.0.1:1", token="t")
        for nothing in (generates, generates_async, None, functools.partial(generates)):
            with self.assertRaisesRegex(Invalid, "cannot handle messages"):
                agent.on()(nothing)  # type: ignore[type-var]
        with fake([msg(1)]) as broker:
            drain("sync", broker.url, lambda message: generates(message))
            self.assertIn("returned a generator", broker.outcomes()[1])

    def test_a_handler_may_settle_by_itself_and_then_fail(self) -> None:
        async def handle(message: Message) -> None:
            await message.ack(confirm=False)
            raise ValueError("late")

        with fake([msg(1)]) as broker:
            summary = drain("async", broker.url, handle)
            self.assertEqual((broker.outcomes(), summary.handled, summary.lost), ({1: "ack"}, 1, 0))

    def test_one_failure_again_and_again_is_one_traceback(self) -> None:
        def handle(message: Any) -> None:
            raise ValueError(message.id)

        with fake([msg(n) for n in range(300)]) as broker, self.assertLogs("postbell", "WARNING") as log:
            summary = drain("sync", broker.url, handle)
        self.assertEqual(summary.failed, 300)
        self.assertEqual("".join(log.output).count("Traceback"), 1)
        self.assertLess(len(log.output), 4)

    def test_however_many_ways_it_fails_the_log_is_bounded(self) -> None:
        def handle(message: Any) -> None:
            kind = type(f"Kind{message.id}", (Exception,), {})
            raise kind(message.id)

        with fake([msg(n) for n in range(200)]) as broker, self.assertLogs("postbell", "WARNING") as log:
            drain("sync", broker.url, handle)
        self.assertLessEqual("".join(log.output).count("Traceback"), 10)
        self.assertEqual(len(broker.outcomes()), 200)

    def test_a_generated_crowd_of_handlers(self) -> None:
        ways = list(RAISED.values())
        for seed in range(4):
            rng = random.Random(seed)
            plan = {f"m{n}": rng.choice([None, None, *ways]) for n in range(120)}

            def call(message: Any, plan: Any = plan) -> None:
                if way := plan[message.id]:
                    raise way[0]()

            face, kind, concurrency = rng.choice(FACES), rng.choice(KINDS), rng.choice((1, 3, 16))
            lines = [msg(n) for n in range(120)]
            with self.subTest(seed=seed, face=face, kind=kind), fake(lines) as broker:
                summary = drain(face, broker.url, handler(kind, call), concurrency=concurrency)
                outcomes = broker.outcomes()
                for n in range(120):
                    way = plan[f"m{n}"]
                    self.assertTrue(outcomes[n].startswith(way[1] if way else "ack"), outcomes[n])
                self.assertEqual((int(summary), len(broker.said)), (120, 1))
                self.assertEqual(summary.handled + summary.failed + summary.dead + summary.released, 120)


class Stops(unittest.TestCase):
    """Ends of an agent while handlers run."""

    def test_a_handler_that_never_returns_does_not_keep_the_process(self) -> None:
        for face in FACES:
            for kind in KINDS:
                rest = "await asyncio.sleep(3600)" if kind == "async def" else "time.sleep(3600)"
                code = program(face, kind, f"if message.id == 'm1':\n    {rest}", "2, grace=0.5")
                with self.subTest(face=face, kind=kind), fake([msg(1), msg(2)]) as broker:
                    process = start(code, broker.url)
                    broker.wait(lambda said: "ack" in broker.outcomes().values())
                    process.send_signal(signal.SIGTERM)
                    self.assertEqual(process.wait(WAIT_SECONDS), 0)
                    wanted = (
                        "release: None"
                        if kind == "async def"
                        else "fail: handle had not finished when the agent had to leave"
                    )
                    self.assertEqual(broker.outcomes(), {1: wanted, 2: "ack"})
                    self.assertEqual(broker.said[0][-2]["op"], "bye")

    def test_a_handler_may_close_the_agent(self) -> None:
        with fake([msg(1), msg(2)]) as broker:
            agent = SyncAgent("a", url=broker.url, token="t")
            agent.connect()
            agent.on()(lambda message: agent.close())
            self.assertEqual(agent.run(report=False), 1)
            broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
            self.assertEqual(broker.outcomes()[1], "release: None")
            self.assertEqual(broker.said[0][-2]["op"], "bye")
            agent.close()

        async def closed(url: str) -> int:
            agent = Agent("a", url=url, token="t")
            await agent.connect()

            @agent.on()
            async def handle(message: Message) -> None:
                await agent.close()

            return await agent.run(report=False)

        with fake([msg(1), msg(2)]) as broker:
            self.assertEqual(asyncio.run(closed(broker.url)), 1)
            broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
            self.assertEqual(broker.outcomes()[1], "release: None")

    def test_an_async_handler_that_calls_what_blocks_is_told_so(self) -> None:
        with fake([msg(1)]) as broker, SyncAgent("a", url=broker.url, token="t") as agent:

            @agent.on()
            async def handle(message: Message) -> None:
                agent.send(to="b", payload=1)

            agent.drain(idle=0.2, failures_ok=True, report=False)
            self.assertIn("would wait for ever", broker.outcomes()[1])

    def test_run_does_not_end_as_if_it_were_asked_to(self) -> None:
        async def cancelled(url: str) -> None:
            async with Agent("a", url=url, token="t") as agent:
                agent.on()(lambda message: None)
                running = asyncio.create_task(agent.run(report=False))
                await asyncio.sleep(0.05)
                for task in asyncio.all_tasks() - {running, asyncio.current_task()}:
                    task.cancel()
                with self.assertRaises((asyncio.CancelledError, Exception)):
                    await running

        with fake([]) as broker:
            asyncio.run(cancelled(broker.url))

    def test_what_ended_the_block_is_the_outcome_of_what_was_in_hand(self) -> None:
        for make, wanted in (
            (lambda: SystemExit(1), "fail: SystemExit: 1"),
            (lambda: SystemExit(0), "release: None"),
            (KeyboardInterrupt, "fail: KeyboardInterrupt"),
            (lambda: ValueError("x"), "fail: ValueError: x"),
            (lambda: Dead("x"), "dead: x"),
            (lambda: Invalid("it cannot be sent"), "fail: it cannot be sent"),
            (asyncio.CancelledError, "fail: CancelledError"),
        ):
            with self.subTest(wanted), fake([msg(1)]) as broker:
                with suppress(BaseException), SyncAgent("a", url=broker.url, token="t") as agent:
                    for _message in agent.messages():
                        raise make()
                broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
                self.assertTrue(broker.outcomes()[1].startswith(wanted), broker.outcomes())


_HEAD = "import asyncio, os, sys, time\nfrom postbell import Agent, SyncAgent\n"
#: How a program runs an agent whose handler is given.
_TAILS = {
    "async": """
async def main():
    async with Agent("a") as agent:
        agent.on()(handle)
        await agent.run({terms})
asyncio.run(main())
""",
    "sync": """
with SyncAgent("a") as agent:
    agent.on()(handle)
    agent.run({terms})
""",
}


def program(face: str, kind: str, body: str, terms: str = "2") -> str:
    """An agent's, whose handler does this."""
    head = "async def handle(message):\n" if kind == "async def" else "def handle(message):\n"
    return _HEAD + head + textwrap.indent(textwrap.dedent(body), "    ") + _TAILS[face].format(terms=terms)


def start(code: str, url: str, **environ: str) -> subprocess.Popen[str]:
    environment = os.environ | {"POSTBELL_URL": url, "POSTBELL_TOKEN": "t", "PYTHONPATH": HERE} | environ
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


class Processes(unittest.TestCase):
    """An exception that ends a process ends it: with the failed attempt told, and a status that is not green."""

    ENDS = (
        ("sys.exit(3)", 3, "SystemExit: 3"),
        ("sys.exit(0)", 1, "SystemExit: 0"),
        ("sys.exit()", 1, "SystemExit"),
        ("sys.exit(256)", 1, "SystemExit: 256"),
        ("sys.exit('enough')", 1, "SystemExit: enough"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
    )

    def test_an_exit_in_a_handler_ends_the_process(self) -> None:
        for face in FACES:
            for kind in KINDS:
                for end, status, reason in self.ENDS:
                    code = program(face, kind, f"if message.id == 'm1':\n    {end}")
                    # A broker that would show it online, and give it the next one.
                    with self.subTest(face=face, kind=kind, end=end), fake([msg(1), msg(2)]) as broker:
                        process = start(code, broker.url)
                        self.addCleanup(process.kill)
                        _, said = process.communicate(timeout=WAIT_SECONDS)
                        self.assertEqual(process.returncode, status, said)
                        outcomes = broker.outcomes()
                        self.assertTrue(outcomes[1].startswith(f"fail: {reason}"), (outcomes, said))
                        self.assertIn(outcomes[2], ("ack", "release: None"), "it was begun, or it was not")

    def test_an_exit_in_a_task_of_a_handlers_ends_the_process(self) -> None:
        body = """
            async def leave():
                sys.exit(4)
            asyncio.create_task(leave())
            await asyncio.sleep(0.2)
        """
        for face in FACES:
            with self.subTest(face), fake([msg(1)]) as broker:
                process = start(program(face, "async def", body, "2, grace=2"), broker.url)
                _, said = process.communicate(timeout=WAIT_SECONDS)
                self.assertEqual(process.returncode, 4, said)

    def test_a_process_that_is_killed_by_a_handler_has_told_what_it_had_handled(self) -> None:
        for face in FACES:
            for kind in KINDS:
                code = program(face, kind, "if message.id == 'm3':\n    os._exit(9)", "1")
                with self.subTest(face=face, kind=kind), fake([msg(1), msg(2), msg(3), msg(4)]) as broker:
                    process = start(code, broker.url)
                    process.communicate(timeout=WAIT_SECONDS)
                    broker.wait(lambda said: said[0][-1]["op"] == "(gone)")
                    self.assertEqual(broker.outcomes(), {1: "ack", 2: "ack"}, "the oldest that is left is the one to blame")
