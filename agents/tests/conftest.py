"""The library's own tests start the broker and its Postgres; so do these, by the same module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

from support import Stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A schema of its own in the mesh's database, and agents that nobody else has."""
    with Stage.opened(tmp_path, monkeypatch) as stage:
        yield stage
