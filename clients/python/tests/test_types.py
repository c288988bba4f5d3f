"""A type checker and Python itself refuse a keyword that a method does not have; the others have one meaning each."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from postbell import Agent, fields

HERE = Path(__file__).resolve().parents[1]
PROGRAM = """
from postbell import Agent, SyncAgent

async def main(agent: Agent, script: SyncAgent) -> None:
    await agent.send(to="a", payload=1, dedupe_key="k")
    script.request(to="a", timeout=5)
    await agent.send(to="a", urgency=1)
    await agent.request(to="a", ttl=5)
    script.send(to="a", priority="high")
    script.request_all(topic="a", number=3)
    script.run(failures_ok=True)
    Agent("a", adress="tcp://b")
"""
#: The lines with a mistake, from `urgency` on.
WRONG = {7, 8, 9, 10, 11, 12}


class Keywords(unittest.TestCase):
    def test_a_type_checker_names_a_wrong_one(self) -> None:
        if importlib.util.find_spec("mypy") is None:
            if os.environ.get("POSTBELL_TEST_REQUIRE") == "all":
                self.fail("mypy is not there, and POSTBELL_TEST_REQUIRE=all asks for it: pip install 'clients/python[dev]'")
            self.skipTest("there is no mypy here")
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "program.py"
            program.write_text(PROGRAM, encoding="utf-8")
            command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--config-file", os.devnull]
            done = subprocess.run(
                [*command, "--cache-dir", folder, str(program)],
                env=os.environ | {"MYPYPATH": str(HERE)},
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
        said = [line for line in done.stdout.splitlines() if "program.py:" in line and " error: " in line]
        self.assertEqual(
            {int(line.partition("program.py:")[2].split(":")[0]) for line in said}, WRONG, done.stdout + done.stderr
        )
        self.assertIn('"urgency"', said[0])

    def test_python_names_a_wrong_one(self) -> None:
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'adress'; it takes .*client_cert"):
            Agent("a", adress="tcp://b")  # type: ignore[call-arg]
        asking = Agent("a", url="tcp://127.0.0.1:1", token="t")
        methods: list[Any] = [asking.send, asking.request, asking.request_all, asking.run, asking.drain]
        for method in methods:
            with self.subTest(method.__name__), self.assertRaisesRegex(TypeError, f"^{method.__name__}.. got .* 'urgency'"):
                asyncio.run(method(urgency=1))

    def test_each_field_has_its_meaning_in_the_one_place(self) -> None:
        source = inspect.getsource(fields).splitlines()
        for kind in (fields.Given, fields.Sending, fields.Questions, fields.Draining):
            for name in kind.__optional_keys__:
                at = [n for n, line in enumerate(source) if line.startswith(f"    {name}: ")]
                self.assertTrue(at, name)
                # An agent is in an environment and may take from a group; a message may be for either.
                self.assertLessEqual(len(at), 2 if name in ("environment", "group") else 1, f"{name} is written once")
                for n in at:
                    self.assertTrue(source[n - 1].startswith("    #: "), f"{name} has a meaning")
