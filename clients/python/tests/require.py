"""A test that finds something missing on this machine: skipped, or failed where ``POSTBELL_TEST_REQUIRE`` is ``all``."""

from __future__ import annotations

import os
import unittest
from collections.abc import Callable
from typing import Any, TypeVar

_VARIABLE = "POSTBELL_TEST_REQUIRE"

T = TypeVar("T", bound=Callable[..., Any] | type)


def needs(found: bool, missing: str) -> Callable[[T], T]:
    """For a test or a class of tests: ``@needs(hasattr(os, "fork"), "there is no fork here")``."""
    value = os.environ.get(_VARIABLE) or "none"
    if value not in ("all", "none"):
        raise RuntimeError(f"{_VARIABLE} is all or none, not {value!r}")
    if not found and value == "all":
        raise RuntimeError(f"{missing}: {_VARIABLE}=all wants it here")
    return unittest.skipUnless(found, missing)
