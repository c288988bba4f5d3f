#!/usr/bin/env python3
"""Writes the dashboards that Grafana imports from the tables in source/. With --check it says whether they are current.

Needs Python 3.9 and nothing else.
"""

import json
import pathlib
import sys

sys.dont_write_bytecode = True

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "source"))

from broker import BROKER  # noqa: E402
from mesh import MESH  # noqa: E402
from panel import DATASOURCE, expand  # noqa: E402

COLUMNS = 24
# The version of the classic model, which every Grafana from 10 on imports; newer ones migrate it by themselves.
SCHEMA_VERSION = 41


def place(rows):
    """Rows of panels from left to right; a line of panels is full and of one height, so that nothing overlaps or gapes."""
    placed, y = [], 0
    for title, panels in rows:
        header = {"type": "row", "title": title, "collapsed": False, "panels": []}
        placed.append({**header, "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        x, y = 0, y + 1
        for panel in panels:
            size = panel["gridPos"]
            placed.append({**panel, "gridPos": {"x": x, "y": y, **size}})
            x += size["w"]
            if x == COLUMNS:
                x, y = 0, y + size["h"]
            elif x > COLUMNS:
                raise SystemExit(f"{title}: {panel['title']} does not fit into its line")
        if x:
            raise SystemExit(f"{title}: the last line has {x} columns of {COLUMNS}")
    return [{"id": number, **panel} for number, panel in enumerate(placed, 1)]


def variable(name, label, text, query, many=False, every=False):
    """A choice at the top: one, or `many`, which begins with the first, or with `every` one."""
    chosen = {"current": {"text": ["All"], "value": ["$__all"]}, "allValue": ".*"} if every else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": text,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}", "qryType": 1},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": many,
        "includeAll": every,
        "regex": "",
        "skipUrlSync": False,
        "options": [],
        **chosen,
    }


def dashboard(uid, title, text, rows, variables=(), links=()):
    """The whole of it."""
    started = {
        "name": "Broker started",
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "datasource": DATASOURCE,
        "target": {"refId": "Anno", "expr": expand("process_start_time_seconds{$} * 1000")},
        "useValueForTime": True,
        "titleFormat": "{{instance}} started",
    }
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "description": "The Prometheus that scrapes the brokers.",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "skipUrlSync": False,
        "options": [],
    }
    job = variable("job", "Mesh", "The scrape job: one for each mesh.", "label_values(postbell_build_info, job)")
    text_of_instance = "Which brokers. Figures that all of them read from the same database are shown once."
    instance = variable("instance", "Broker", text_of_instance,
                        'label_values(postbell_build_info{job="$job"}, instance)', many=True, every=True)
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["postbell"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "weekStart": "",
        "annotations": {"list": [started]},
        "templating": {"list": [source, job, instance, *(variable(**v) for v in variables)]},
        "links": [
            {
                "type": "link",
                "title": name,
                "tooltip": tooltip,
                "url": f"/d/{other}",
                "icon": "dashboard",
                "tags": [],
                "asDropdown": False,
                "targetBlank": False,
                "includeVars": True,
                "keepTime": True,
            }
            for other, name, tooltip in links
        ],
        "panels": place(rows),
    }


def main():
    stale = []
    for name, source in {"postbell-broker": BROKER, "postbell-mesh": MESH}.items():
        path = HERE / f"{name}.json"
        text = json.dumps(dashboard(uid=name, **source), indent=2, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        raise SystemExit(f"not what the source makes: {', '.join(stale)}; run python3 dashboards/build.py")


if __name__ == "__main__":
    main()
