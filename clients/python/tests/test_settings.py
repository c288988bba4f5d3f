"""The settings that an agent is connected with: given, or from the environment."""

from __future__ import annotations

import json
import tempfile
import unittest
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from postbell import Invalid, Message, settings
from postbell.connector import hello
from postbell.message import milliseconds
from postbell.pace import Pace
from postbell.tls import fingerprint


def read(agent: str | None = None, environ: dict[str, str] | None = None, **given: Any) -> settings.Settings:
    names = (
        "url",
        "token",
        "ca",
        "pin",
        "client_cert",
        "client_key",
        "environment",
        "instance",
        "group",
        "window",
        "heartbeat",
        "capabilities",
        "version",
    )
    return settings.read(agent, **(dict.fromkeys(names) | given), environ=environ or {})


class Environment(unittest.TestCase):
    def test_what_is_not_given_is_in_the_environment(self) -> None:
        environ = {
            "POSTBELL_URL": "tcp+tls://broker:1",
            "POSTBELL_AGENT": "a",
            "POSTBELL_TOKEN": "t\n",
            "POSTBELL_CA": "ca.pem",
            "POSTBELL_PIN": "",
            "POSTBELL_INSTANCE": "main",
            "ENVIRONMENT": "railway",
        }
        found = read(environ=environ)
        self.assertEqual((found.agent, found.token, found.instance, found.environment), ("a", "t", "main", "railway"))
        self.assertEqual((str(found.address), found.trust.ca, found.trust.pin), ("broker:1", "ca.pem", None))
        self.assertIn("railway", found.client)
        given = read("b", environ, token="u", url="tcp+tls://other", environment="pc")
        self.assertEqual((given.agent, given.token, given.environment), ("b", "u", "pc"))
        self.assertEqual(str(given.address), "other:7440")

    def test_an_instance_without_a_name_has_one_that_nobody_else_has(self) -> None:
        first, second = read("a", token="t"), read("a", token="t")
        self.assertNotEqual(first.instance, second.instance)
        self.assertEqual((first.is_instance_ours, read("a", token="t", instance="main").is_instance_ours), (True, False))

    def test_what_it_says_of_itself_is_in_its_hello_within_bounds(self) -> None:
        given: dict[str, Any] = {
            "environment": "railway",
            "capabilities": ["validate"],
            "version": "2.1.0",
            "group": "g",
            "instance": "i",
        }
        said = json.loads(hello(read("a", token="t", **given), 5))
        self.assertEqual({key: said[key] for key in given}, given)
        self.assertNotIn("capabilities", json.loads(hello(read("a", token="t"), 5)))
        with self.assertRaisesRegex(Invalid, "may have 8192"):
            hello(read("a", token="t", capabilities=["x" * 9000]), 5)

    def test_what_is_missing_is_named(self) -> None:
        with self.assertRaisesRegex(Invalid, "POSTBELL_AGENT"):
            read(token="t")
        with self.assertRaisesRegex(Invalid, "POSTBELL_TOKEN"):
            read("a")
        with self.assertRaisesRegex(Invalid, "window"):
            read("a", token="t", window=-1)

    def test_a_token_may_be_in_a_file_and_is_never_shown(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "token"
            with self.assertRaisesRegex(Invalid, "cannot be read"):
                read("a", {"POSTBELL_TOKEN_FILE": str(file)})
            file.write_text("pb_secret\n")
            found = read("a", {"POSTBELL_TOKEN_FILE": str(file)})
        self.assertEqual(found.token, "pb_secret")
        self.assertNotIn("pb_secret", repr(found))


class Small(unittest.TestCase):
    def test_a_fingerprint_as_people_copy_it(self) -> None:
        wanted = bytes.fromhex("5e" * 32)
        for text in ("5e" * 32, ":".join(["5E"] * 32), "sha256 Fingerprint=" + ":".join(["5E"] * 32) + "\n"):
            self.assertEqual(fingerprint(text), wanted)
        for bad in ("", "5e", "x" * 64, "5e" * 33):
            with self.assertRaises(Invalid):
                fingerprint(bad)

    def test_a_duration_is_seconds_or_a_timedelta_within_a_week(self) -> None:
        self.assertEqual([milliseconds("d", d) for d in (None, 1.5, timedelta(minutes=1))], [None, 1500, 60_000])
        for bad in (-1, 8 * 86_400, float("nan")):
            with self.assertRaises(Invalid):
                milliseconds("d", bad)

    def test_an_instant_has_any_number_of_digits(self) -> None:
        for text, microsecond in {"05Z": 0, "05.5Z": 500_000, "05.123456Z": 123_456, "05.123456789Z": 123_456}.items():
            frame = {"id": "m", "from": "a", "type": "data", "created_at": f"2026-11-24T02:00:{text}"}
            message = Message(None, frame, 1, 1)  # type: ignore[arg-type]
            self.assertEqual(message.created_at, datetime(2026, 11, 24, 2, 0, 5, microsecond, tzinfo=timezone.utc))
            message.settle()

    def test_waits_grow_with_jitter_up_to_the_bound_and_start_anew(self) -> None:
        pace = Pace(0.1, 2)
        waits = [pace.next_wait() for _ in range(50)]
        self.assertTrue(0.05 <= waits[0] <= 0.15 and all(1 <= wait <= 3 for wait in waits[10:]), waits)
        self.assertGreater(len(set(waits)), 40)
        pace.reset()
        self.assertLessEqual(pace.next_wait(), 0.15)
