"""Faults as sentences for people: what happened, to what, and what to do."""

from __future__ import annotations

import psycopg


class Fault(Exception):
    """The job could not be done. The text is for people."""


def sentence(fault: BaseException) -> str:
    """The fault as a person is told it. A database's error is cut to its first line, since the rest quotes the statement."""
    if isinstance(fault, psycopg.Error):
        return f"the database refused: {(str(fault).strip() or type(fault).__name__).splitlines()[0]}"
    return str(fault)


class Unavailable(Fault):
    """The database cannot be reached: nothing was tried, and the same may work later."""


class ConfigFault(Fault):
    """The configuration is wrong; nothing was tried."""
