"""What is told to people, as a sentence: what happened, to what, and what to do."""

from __future__ import annotations


class Fault(Exception):
    """The job could not be done. The text is for people."""


class ConfigFault(Fault):
    """The configuration is wrong; nothing was tried."""
