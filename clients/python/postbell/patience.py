"""How long to wait for a sign of life: no socket and no clock, seconds go in and come out."""

from __future__ import annotations

from .limits import CONNECT_WAIT_SECONDS, SIGN_WAIT_FACTOR, SIGN_WAIT_FIRST_SECONDS, SIGN_WAIT_MIN_SECONDS


class Patience:
    """Short where answers come quickly, longer where they come slowly, and doubled by each silence: a broker that is far away
    or busy is given up a few times, and not for ever."""

    def __init__(self) -> None:
        #: Seconds.
        self.wait = SIGN_WAIT_FIRST_SECONDS

    def answered(self, seconds: float) -> None:
        """A sign of life came after so long."""
        self.wait = min(max(SIGN_WAIT_FACTOR * seconds, SIGN_WAIT_MIN_SECONDS), CONNECT_WAIT_SECONDS)

    def silent(self) -> None:
        """None came in `wait`."""
        self.wait = min(2 * self.wait, CONNECT_WAIT_SECONDS)
