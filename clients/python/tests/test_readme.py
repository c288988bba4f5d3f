"""The agent that the README begins with does what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

from .mesh import WAIT_SECONDS, mesh

README = Path(__file__).resolve().parents[1] / "README.md"


def first_program() -> str:
    return README.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


class Readme(unittest.TestCase):
    def test_its_first_agent_has_ten_lines_and_works(self) -> None:
        program = first_program()
        self.assertLessEqual(len([line for line in program.splitlines() if line.strip()]), 10)
        who, boss = mesh().agent(name="validation-agent"), mesh().agent("boss", role="orchestrator")
        environment = os.environ | {"POSTBELL_URL": who.url, "POSTBELL_TOKEN": who.token}
        environment["PYTHONPATH"] = str(README.parent)
        process = subprocess.Popen([sys.executable, "-c", program], env=environment)
        try:
            with boss.sync_agent() as asker:
                reply = asker.request(to=who.name, type="command", payload={"county": "c12"}, timeout=WAIT_SECONDS)
                self.assertEqual((reply.sender, reply.payload), (who.name, {"ok": True}))
                asker.send(to=who.name, type="command", payload={})
                while not (letters := asker.dead_letters(inbox=who.name).letters):
                    time.sleep(0.05)
                self.assertEqual([letter.reason for letter in letters], ["a command needs a county"])
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(WAIT_SECONDS), 0)
        finally:
            process.kill()
            process.wait()
