"""The examples that need nothing but a mesh run as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Stage

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("kind", ["validation", "remediation", "reporting", "orchestrator"])
def test_an_example_works_on_a_mesh_as_it_is(kind: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stage.folder)
    who = stage.agent(kind, role="orchestrator" if kind == "orchestrator" else "agent")
    assert stage.once(kind, EXAMPLES / f"{kind}.toml", who) == 0
    if kind == "validation":
        assert {alert["details"]["rule"] for alert in stage.alerts(who)} <= {
            "messages are for somebody",
            "one agent of a name",
        }
    assert stage.metric(who, "run_failed") == 0
