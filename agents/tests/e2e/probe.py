"""An agent of the end-to-end test, a process in one of its environments: answers, hears alerts, asks others, and says on its
output what it saw, a line of JSON each. `job` is a scheduled job: asks the orchestrator for two tasks and leaves."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from postbell import SyncAgent, SyncMessage


def say(what: str, **values: Any) -> None:
    print(json.dumps({"what": what, "at": time.time(), **values}), flush=True)


def stay(agent: SyncAgent) -> None:
    @agent.on("query")
    def query(message: SyncMessage) -> None:
        message.reply({"from": agent.environment})

    @agent.on("command")
    def command(message: SyncMessage) -> None:
        asked = message.payload["ask"]
        began = time.monotonic()
        reply = agent.request(to=asked, payload={"ask": "where"}, timeout=20)
        say("answered", by=reply.sender, where=reply.payload["from"], seconds=time.monotonic() - began)

    @agent.on("alert")
    def alert(message: SyncMessage) -> None:
        say("alert", topic=message.topic, alert_id=message.payload.get("alert_id"))

    agent.subscribe("alerts.>")
    say("here")
    agent.run(8)


def job(agent: SyncAgent, orchestrator: str, tasks: list[dict[str, Any]]) -> None:
    answers: dict[str, SyncMessage] = {}
    agent.on("response")(lambda message: answers.update({message.correlation_id or "": message}))
    began = time.monotonic()
    asked = {agent.send(to=orchestrator, type="command", payload=task): task for task in tasks}
    while len(answers) < len(asked) and time.monotonic() - began < 25:
        agent.drain(idle=0.2)
    for task_id, task in asked.items():
        payload = answers[task_id].payload
        took = answers[task_id].created_at.timestamp()
        say("task", environment=task["environment"], ok=payload["ok"], by=payload["agent"], answered_at=took)
    say("done", seconds=time.monotonic() - began)


def main() -> None:
    with SyncAgent() as agent:
        if sys.argv[1:2] == ["job"]:
            job(agent, sys.argv[2], json.loads(sys.argv[3]))
        else:
            stay(agent)


main()
