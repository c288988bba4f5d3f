"""An alert as this agent tells it, read from a message. No IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..alerts import SEVERITIES

#: The most characters of an alert's content that are shown if it has no message.
TEXT_CHARACTERS_MAX = 500


@dataclass(frozen=True)
class Alert:
    """An alert that came, in the words that sinks write."""

    message_id: str
    severity: str
    source: str
    topic: str | None
    created_at: str
    text: str
    payload: Any

    @property
    def rank(self) -> int:
        """For comparison: higher is worse."""
        return SEVERITIES.index(self.severity)

    def as_json(self) -> dict[str, Any]:
        """As a webhook and a file have it."""
        return {
            "message_id": self.message_id,
            "severity": self.severity,
            "source": self.source,
            "topic": self.topic,
            "created_at": self.created_at,
            "text": self.text,
            "payload": self.payload,
        }


def read(message_id: str, sender: str, topic: str | None, created_at: str, payload: Any) -> Alert:
    """Whatever came: an alert that says nothing of itself is told all the same."""
    fields: Mapping[str, Any] = payload if isinstance(payload, Mapping) else {}
    said = fields.get("message")
    text = said if isinstance(said, str) and said else repr(payload)[:TEXT_CHARACTERS_MAX]
    # `alerts.resolved`, `alerts.escalated`, `alerts.unacknowledged`: what became of an alert that was told before.
    news = (topic or "").rpartition(".")[2]
    return Alert(
        message_id=message_id,
        severity=_severity(fields.get("severity"), topic),
        source=str(fields.get("agent_id") or sender),
        topic=topic,
        created_at=created_at,
        text=f"{news}: {text}" if (topic or "").startswith("alerts.") and news not in SEVERITIES else text,
        payload=payload,
    )


def _severity(said: Any, topic: str | None) -> str:
    # `alerts.high` says it where the payload does not; what nobody says is not taken for harmless.
    for word in (said, (topic or "").rpartition(".")[2]):
        if word in SEVERITIES:
            return str(word)
    return "high"


def headline(alerts: list[Alert]) -> str:
    """Many in a line: `3 alerts: 1 critical, 2 low`."""
    if len(alerts) == 1:
        return f"{alerts[0].severity}: {_line(alerts[0].text)}"
    counts = [(s, sum(a.severity == s for a in alerts)) for s in reversed(SEVERITIES)]
    return f"{len(alerts)} alerts: " + ", ".join(f"{n} {severity}" for severity, n in counts if n)


def body(alerts: list[Alert]) -> str:
    """Many as text, the worst first, the oldest first among equals."""
    ordered = sorted(alerts, key=lambda a: (-a.rank, a.created_at))
    return "\n".join(f"{a.severity.upper():8}  {a.created_at}  {a.source}: {_line(a.text)}" for a in ordered) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
