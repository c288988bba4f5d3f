"""How an agent ends: a job that did not do its work is not green, and what ends the process ends it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from postbell import Dead, Summary
from support import Credentials, Stage, variables

from postbell_agents import config, runtime
from postbell_agents.faults import Fault
from postbell_agents.job import Job
from postbell_agents.settings import common

Made = Callable[[Callable[[], None]], Job]


class Probe(Job):
    """A job that does what the test says."""

    def __init__(self, path: Path, work: Callable[[], None]) -> None:
        super().__init__(common(config.read(path), "probe", every_seconds=0.1))
        self._work = work

    def work(self) -> dict[str, tuple[float, str]]:
        self._work()
        return {}


@pytest.fixture
def who(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Credentials:
    who = stage.agent("probe")
    for name, value in variables(who).items():
        monkeypatch.setenv(name, value)
    return who


def test_once_is_not_green_where_a_handler_raised(
    stage: Stage, who: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    rounds: list[str] = []

    def work() -> None:
        rounds.append("")
        if len(rounds) < 5:
            raise ZeroDivisionError("a secret of a payload's")

    stage.sender().send(to=who.name, type="command", payload=1)
    # Three attempts of the command's fail, and a round of its own; the last is the second start's.
    assert runtime.run(Probe(stage.config(""), work), once=True) is False
    assert f"### {who.name}" in page.read_text()
    assert "1 not handled" in page.read_text() and "secret" not in page.read_text()
    assert runtime.run(Probe(stage.config(""), lambda: None), once=True) is True


def test_a_flag_says_otherwise(stage: Stage, who: Credentials) -> None:
    def refuse(*_: object) -> None:
        raise Dead("there is no such county")

    for failures_ok in (False, True):
        stage.sender().send(to=who.name, type="query", payload=1)
        job = Probe(stage.config(""), lambda: None)
        job.on_query = refuse  # type: ignore[method-assign, assignment]
        assert runtime.run(job, once=True, failures_ok=failures_ok) is failures_ok
        assert isinstance(job.messages, Summary) and (job.messages.dead, job.messages.lost) == (1, 1)


def test_once_is_not_green_where_the_job_that_was_asked_for_could_not_be_done(stage: Stage, who: Credentials) -> None:
    faults = [Fault("it cannot be done")]

    def work() -> None:
        if faults:
            raise faults.pop()

    stage.sender().send(to=who.name, type="command", payload=1)
    assert runtime.run(Probe(stage.config(""), work), once=True) is False


def test_messages_that_an_agent_has_no_use_for_are_left_to_others(
    stage: Stage, who: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    sender = stage.sender()
    for n in range(5):
        sender.send(to=who.name, type="heartbeat", payload=n)
    job = Probe(stage.config(""), lambda: None)
    # The library's tests silence it.
    monkeypatch_level = logging.getLogger("postbell").level
    logging.getLogger("postbell").setLevel(logging.INFO)
    try:
        assert runtime.run(job, once=True) is True
    finally:
        logging.getLogger("postbell").setLevel(monkeypatch_level)
    assert job.messages is not None and (job.messages.left, job.messages.lost) == (5, 0)
    assert "Traceback" not in caplog.text and caplog.text.count("nobody here handles") == 1


@pytest.mark.parametrize(("leaving", "code"), [(SystemExit(3), 3), (SystemExit(0), 1), (KeyboardInterrupt(), None)])
@pytest.mark.parametrize("once", [True, False])
def test_what_ends_the_process_in_a_round_of_the_job_ends_it(
    stage: Stage, who: Credentials, leaving: BaseException, code: int | None, once: bool
) -> None:
    def work() -> None:
        raise leaving

    with pytest.raises(type(leaving)) as ended:
        runtime.run(Probe(stage.config(""), work), once=once)
    assert code is None or getattr(ended.value, "code", None) == code


@pytest.mark.parametrize("once", [True, False])
def test_what_ends_the_process_in_a_handler_ends_it(stage: Stage, who: Credentials, once: bool) -> None:
    stage.sender().send(to=who.name, type="query", payload=1)
    job = Probe(stage.config(""), lambda: None)
    job.health = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]

    def leave(*_: object) -> None:
        raise SystemExit(5)

    job.on_query = leave  # type: ignore[method-assign, assignment]
    with pytest.raises(SystemExit) as ended:
        runtime.run(job, once=once)
    assert ended.value.code == 5
