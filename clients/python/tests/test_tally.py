"""A job says what became of its messages, and is not green where they were not handled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from pathlib import Path
from unittest.mock import patch

from postbell import Dead, Failed, Retry, Summary, SyncMessage
from postbell.repeats import Repeats
from postbell.tally import Tally, markdown

from .fake import FACES, KINDS, WAIT_SECONDS, drain, fake, handler, msg
from .mesh import mesh

HERE = str(Path(__file__).resolve().parents[1])


def script(code: str, url: str, **environ: str) -> tuple[int, str]:
    environment = os.environ | {"POSTBELL_URL": url, "POSTBELL_TOKEN": "t", "PYTHONPATH": HERE} | environ
    program = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(program, env=environment, stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS, check=False)
    return done.returncode, done.stderr


class Jobs(unittest.TestCase):
    def test_a_drain_whose_handlers_raise_is_not_green(self) -> None:
        for kind in KINDS:
            code = f"""
                import asyncio
                from postbell import Agent, SyncAgent
                {"async " if kind == "async def" else ""}def handle(message):
                    raise ValueError("x")
                with SyncAgent("a") as agent:
                    agent.on()(handle)
                    agent.drain(idle=0.3)
                """
            with self.subTest(kind=kind), fake([msg(1), msg(2)]) as broker:
                status, said = script(code, broker.url)
                self.assertEqual(status, 1)
                self.assertIn("postbell: a: 2 taken: 0 handled, 2 failed, 0 retried, 0 dead", said)
                self.assertIn("2 messages were not handled", said)
            with self.subTest(kind=kind, face="async"), fake([msg(1)]) as broker:
                code = f"""
                    import asyncio
                    from postbell import Agent
                    {"async " if kind == "async def" else ""}def handle(message):
                        raise ValueError("x")
                    async def main():
                        async with Agent("a") as agent:
                            agent.on()(handle)
                            await agent.drain(idle=0.3)
                    asyncio.run(main())
                    """
                self.assertEqual(script(code, broker.url)[0], 1)

    def test_a_flag_says_otherwise_and_a_summary_is_written(self) -> None:
        code = """
            from postbell import SyncAgent
            with SyncAgent("a") as agent:
                @agent.on()
                def handle(message):
                    if message.id == "m1":
                        raise ValueError("a secret")
                summary = agent.drain(idle=0.3, failures_ok=True)
                assert (summary, summary.handled, summary.failed, summary.lost) == (2, 1, 1, 1), vars(summary)
            """
        with tempfile.TemporaryDirectory() as folder, fake([msg(1), msg(2)]) as broker:
            page = Path(folder) / "summary.md"
            page.write_text("before\n")
            status, said = script(code, broker.url, GITHUB_STEP_SUMMARY=str(page))
            self.assertEqual(status, 0, said)
            written = page.read_text()
            self.assertTrue(written.startswith("before\n### a: 2 messages, 1 not handled"), written)
            self.assertIn("| 1 | 1 | 0 | 0 | 0 | 0 |", written)
            self.assertIn("| data | ValueError | 1 |", written)
            self.assertNotIn("secret", written)
            status, said = script(code, broker.url, GITHUB_STEP_SUMMARY=str(Path(folder) / "none" / "x.md"))
            self.assertEqual((status, "could not be written to" in said), (0, True))

    def test_what_was_handled_in_the_end_is_green(self) -> None:
        again = [msg(2, id="m1", attempt=2)]
        for face in FACES:

            def handle(message: SyncMessage) -> None:
                if message.attempt == 1:
                    raise Retry(0.01)

            with self.subTest(face), fake([msg(1), *again]) as broker:
                summary = drain(face, broker.url, handler("def", handle), failures_ok=False)
                self.assertEqual((summary.handled, summary.failed, summary.retried, summary.lost), (1, 1, 1, 0))
                self.assertTrue(summary.is_clean)

    def test_the_failure_has_the_summary(self) -> None:
        def handle(message: SyncMessage) -> None:
            raise Dead("x")

        with fake([msg(1)]) as broker, self.assertRaises(Failed) as failed:
            drain("sync", broker.url, handle, failures_ok=False)
        self.assertEqual((failed.exception.summary.dead, failed.exception.summary.lost), (1, 1))

    def test_what_cannot_be_read_is_not_green_either(self) -> None:
        with fake([msg(1, "NaN")]) as broker, self.assertRaisesRegex(Failed, "1 message was not handled .0 taken"):
            drain("async", broker.url, handler("def", lambda _: None), failures_ok=False)

    def test_on_the_real_broker(self) -> None:
        who = mesh().agent("job")
        with who.sync_agent() as agent:
            agent.send(to=who.name, payload=1)

            @agent.on()
            def handle(message: SyncMessage) -> None:
                raise ValueError("always")

            with self.assertRaisesRegex(Failed, "1 message was not handled"):
                agent.drain(idle=2)
            while not (letters := agent.dead_letters().letters):
                time.sleep(0.05)
            self.assertEqual(letters[0].attempts, 3)


class Numbers(unittest.TestCase):
    def test_they_are_bounded_and_nothing_is_forgotten(self) -> None:
        tally = Tally()
        with patch("postbell.tally.TALLY_IDS_MAX", 10):
            for n in range(100):
                tally.settled(f"m{n}", "fail", 1)
                tally.kind(f"type{n}", "ValueError")
            tally.acked("m3", 2)
        summary = Summary.of(101, tally)
        self.assertEqual((summary.lost, summary.handled, summary.failed), (99, 1, 100))
        self.assertLess(len(summary.kinds), 25)
        both = summary.plus(summary)
        self.assertEqual((both, both.failed, both.handled), (202, 200, 2))

    def test_what_a_later_run_handled_is_not_lost(self) -> None:
        first, second = Tally(), Tally()
        for message_id in ("a", "b"):
            first.settled(message_id, "fail", 1)
        second.acked("a", 2)
        second.settled("c", "dead", 1)
        both = Summary.of(2, first).plus(Summary.of(2, second))
        self.assertEqual((both.lost, both.failed, both.handled, both.dead), (2, 2, 1, 1))

    def test_a_page_has_nothing_of_somebody_elses(self) -> None:
        tally = Tally()
        tally.settled("m", "fail", 1)
        tally.kind("<img src=x>|`a`\n# b", "Value_Error")
        page = markdown("a|b", Summary.of(1, tally))
        self.assertNotRegex(page, r"<|`|\n# b")
        self.assertIn("Value\\_Error", page)

    def test_what_is_repeated_is_a_line_a_minute(self) -> None:
        with self.assertLogs("postbell.test", "WARNING") as log, patch("postbell.repeats.time.monotonic") as now:
            import logging

            repeats = Repeats(logging.getLogger("postbell.test"))
            for second in range(150):
                now.return_value = second
                repeats.warning("key", "it failed")
        self.assertEqual(len(log.output), 3)
        self.assertIn("59 times before", log.output[1])
