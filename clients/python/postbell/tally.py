"""The outcomes of the messages that an agent took, counted; `run` and `drain` say them at their end."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from pathlib import Path

from .errors import PostbellError
from .limits import TALLY_IDS_MAX, TALLY_KINDS_MAX

logger = logging.getLogger("postbell")

_OTHERS = ("", "others")


class Tally:
    """Counts outcomes as they are said to the broker."""

    def __init__(self) -> None:
        self.handled = self.failed = self.retried = self.dead = self.released = self.left = 0
        #: Messages whose last outcome here was no success; what does not fit is only counted.
        self.lost_ids: dict[str, None] = {}
        self.more_lost = 0
        #: Messages that came again, and were handled: another run may have lost them.
        self.mended_ids: dict[str, None] = {}
        #: Kinds of failure: the type of message, and the kind of failure.
        self.kinds: Counter[tuple[str, str]] = Counter()

    def acked(self, message_id: str, attempt: int) -> None:
        """A message that somebody had was handled."""
        self.handled += 1
        if attempt > 1:
            self.retried += 1
            self.lost_ids.pop(message_id, None)
            if len(self.mended_ids) < TALLY_IDS_MAX:
                self.mended_ids[message_id] = None

    def settled(self, message_id: str, outcome: str, attempt: int) -> None:
        """Something else became of it."""
        self.retried += attempt > 1
        match outcome:
            case "release":
                self.released += 1
                return
            case "dead":
                self.dead += 1
            case _:
                self.failed += 1
        if message_id in self.lost_ids or len(self.lost_ids) < TALLY_IDS_MAX:
            self.lost_ids[message_id] = None
        else:
            self.more_lost += 1

    def kind(self, message_type: str, what: str) -> None:
        """Counts a kind of failure."""
        kind = (message_type, what)
        self.kinds[kind if kind in self.kinds or len(self.kinds) < TALLY_KINDS_MAX else _OTHERS] += 1


class Summary(int):
    """The result of `run` and `drain`: the number of messages that handlers took, and what became of them."""

    #: Acknowledged.
    handled: int
    #: Attempts that failed, and count.
    failed: int
    #: Attempts that were not the first one of their message.
    retried: int
    #: Became dead letters at once: by `Dead`, or because they cannot be read.
    dead: int
    #: Given back by a handler, or interrupted; not counted.
    released: int
    #: Given back because nobody here handles their type; not counted.
    left: int
    #: How often each kind of failure happened: the type of message, and the kind of failure.
    kinds: dict[tuple[str, str], int]
    _lost_ids: frozenset[str]
    _more_lost: int
    _mended_ids: frozenset[str]

    @classmethod
    def of(cls, taken: int, tally: Tally) -> Summary:
        """Made from a tally."""
        summary = cls(taken)
        for name in _NUMBERS:
            setattr(summary, name, getattr(tally, name))
        summary.kinds = dict(tally.kinds)
        summary._lost_ids, summary._more_lost = frozenset(tally.lost_ids), tally.more_lost
        summary._mended_ids = frozenset(tally.mended_ids)
        return summary

    def plus(self, other: Summary) -> Summary:
        """Both, as one run; the other came later."""
        summary = Summary(int(self) + int(other))
        summary._lost_ids = (self._lost_ids - other._mended_ids) | other._lost_ids
        summary._more_lost = self._more_lost + other._more_lost
        summary._mended_ids = (self._mended_ids - other._lost_ids) | other._mended_ids
        for name in _NUMBERS:
            setattr(summary, name, getattr(self, name) + getattr(other, name))
        summary.kinds = dict(Counter(self.kinds) + Counter(other.kinds))
        return summary

    @property
    def lost(self) -> int:
        """Messages that failed or died, and were not handled later in the same run."""
        return len(self._lost_ids) + self._more_lost

    @property
    def is_clean(self) -> bool:
        """Nothing was lost: a scheduled job may be green."""
        return self.lost == 0

    @property
    def sentence(self) -> str:
        """For people."""
        numbers = [f"{getattr(self, name)} {name}" for name in _NUMBERS if name in _ALWAYS or getattr(self, name)]
        return f"{int(self)} taken: {', '.join(numbers)}"

    def report(self, agent: str) -> None:
        """Says it: in the log, on standard error where nobody set up a log, and in the summary of a GitHub job."""
        level = logging.INFO if self.is_clean else logging.WARNING
        if logger.level == logging.NOTSET and not logging.getLogger().handlers and not logger.handlers:
            print(f"postbell: {agent}: {self.sentence}", file=sys.stderr)
        else:
            logger.log(level, "%s: %s", agent, self.sentence)
        if path := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                with Path(path).open("a", encoding="utf-8") as file:
                    file.write(markdown(agent, self))
            except OSError as fault:
                logger.warning("the job's summary could not be written to %s: %s", path, fault)


_NUMBERS = ("handled", "failed", "retried", "dead", "released", "left")
_ALWAYS = ("handled", "failed", "retried", "dead")


class Failed(PostbellError):
    """A job ended, and messages were not handled."""

    def __init__(self, agent: str, summary: Summary) -> None:
        many = "message was" if summary.lost == 1 else "messages were"
        super().__init__(f"{agent}: {summary.lost} {many} not handled ({summary.sentence})")
        self.summary = summary


def markdown(agent: str, summary: Summary) -> str:
    """A table that names kinds of failure, and nothing out of a message: the page may be public."""
    mark = "" if summary.is_clean else f", {summary.lost} not handled"
    lines = [
        f"### {_cell(agent)}: {int(summary)} messages{mark}",
        "",
        f"| {' | '.join(_NUMBERS)} |",
        f"|{' ---: |' * len(_NUMBERS)}",
        f"| {' | '.join(str(getattr(summary, name)) for name in _NUMBERS)} |",
        "",
    ]
    if summary.kinds:
        lines += ["| type | failure | times |", "| --- | --- | ---: |"]
        worst = sorted(summary.kinds.items(), key=lambda kind: -kind[1])
        lines += [f"| {_cell(kind)} | {_cell(what)} | {count} |" for (kind, what), count in worst]
        lines.append("")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Within a table: neither markdown nor HTML of somebody else's."""
    plain = "".join(letter if letter.isalnum() or letter in " -_." else "?" for letter in text)
    return plain[:80].replace("_", "\\_")
