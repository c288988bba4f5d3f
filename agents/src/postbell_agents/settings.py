"""The settings in every agent's file: who it is, its databases, how often it works."""

from __future__ import annotations

from dataclasses import dataclass

from .config import Section
from .database import CONNECTIONS_MAX, Database

WEEK_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class Common:
    """See the module."""

    kind: str
    #: Empty: POSTBELL_AGENT says.
    name: str | None
    environment: str | None
    instance: str | None
    #: Told to the mesh beside the kind: what the orchestrator assigns tasks by.
    capabilities: tuple[str, ...]
    #: The database the job is done on.
    database: Database
    #: The one with agent_alerts, agent_metrics, agent_registry; the same where no other is given.
    mesh: Database
    mesh_schema: str
    every_seconds: float
    #: `--once` leaves after so long without a message.
    idle_seconds: float
    concurrency: int
    #: An agent writes its metrics no more often than this.
    metrics_seconds: float
    #: And keeps them for so long.
    metrics_days: int


def common(file: Section, kind: str, *, every_seconds: float, concurrency: int = 4) -> Common:
    """Reads [agent], [database], [mesh] and [run]."""
    agent, run = file.section("agent"), file.section("run")
    side_by_side = run.whole("concurrency", concurrency, 1, 1000)
    database = _database(file.section("database"), f"postbell-{kind}", side_by_side)
    mesh = file.section("mesh")
    schema = mesh.text("schema", "public")
    return Common(
        kind=kind,
        name=agent.text_or_none("name"),
        environment=agent.text_or_none("environment"),
        instance=agent.text_or_none("instance"),
        capabilities=(kind, *agent.texts("capabilities")),
        database=database,
        mesh=_database(mesh, f"postbell-{kind}-mesh", side_by_side) if mesh.has("url") else database,
        mesh_schema=schema,
        every_seconds=run.seconds("every_seconds", every_seconds, 0.1, WEEK_SECONDS),
        idle_seconds=run.seconds("idle_seconds", 2.0, 0.1, 3600.0),
        concurrency=side_by_side,
        metrics_seconds=run.seconds("metrics_seconds", 60.0, 0.0, 86_400.0),
        metrics_days=run.whole("metrics_days", 30, 1, 36_500),
    )


def _database(section: Section, application: str, concurrency: int) -> Database:
    timeout = section.seconds("statement_timeout_seconds", 60.0, 0.1, 86_400.0)
    url = section.text("url", None)
    # A connection for each handler; the job and its metrics have theirs as well.
    most = max(CONNECTIONS_MAX, concurrency + 4)
    return Database(url, application=application, statement_timeout_seconds=timeout, connections_max=most)
