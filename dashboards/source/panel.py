"""Panels in Grafana's JSON: one function a kind, each with what all panels of that kind share."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# The selector of every metric: `{$}` in an expression, `{$, reason="nack"}` with more.
SELECTOR = 'job="$job", instance=~"$instance"'

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "text"

LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def expand(expression):
    """Puts the selector in, and makes one line of it."""
    return " ".join(expression.replace("{$", "{" + SELECTOR).split())


def steps(*points):
    """Colours by value: `steps(GREEN, (1, YELLOW), (5, RED))`."""
    base, *others = points
    first = [{"color": base, "value": None}]
    return {"mode": "absolute", "steps": first + [{"color": color, "value": value} for value, color in others]}


def words(names):
    """Words for numbers: `words({0: ("down", RED), 1: ("up", GREEN)})`."""
    options = {
        str(number): {"text": text, "color": color, "index": index}
        for index, (number, (text, color)) in enumerate(names.items())
    }
    return [{"type": "value", "options": options}]


def bounds(low, top):
    """The axis's ends, where they are known."""
    return {name: value for name, value in (("min", low), ("max", top)) if value is not None}


def for_each(variable, panel):
    """The panel once for each chosen value, three beside each other."""
    return {**panel, "repeat": variable, "repeatDirection": "h", "maxPerRow": 3}


def _panel(kind, title, text, unit, queries, width, height, options, defaults, instant=False, form=None):
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": expand(expression),
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
            **({"format": form} if form else {}),
        }
        for index, (legend, expression) in enumerate(queries.items())
    ]
    defaults = {"unit": unit, **defaults}
    defaults.setdefault("thresholds", steps(GREEN))
    defaults.setdefault("mappings", [])
    return {
        "type": kind,
        "title": title,
        "description": " ".join(text.split()),
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def lines(title, text, unit, queries, width=8, height=8, limit=None, stacked=False, events=False, top=None, low=0):
    """Values over time. `limit` draws a red line; what is stacked adds up to something; events are rare, and bars."""
    custom = {
        "drawStyle": "bars" if events else "line",
        "lineWidth": 1,
        "fillOpacity": 70 if events else 40 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if limit is None else "line"},
    }
    defaults = {"custom": custom, "color": {"mode": "palette-classic"}, **bounds(low, top)}
    if limit is not None:
        defaults["thresholds"] = steps(GREY, (limit, RED))
    options = {"legend": LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}}
    return _panel("timeseries", title, text, unit, queries, width, height, options, defaults)


def number(title, text, unit, queries, colors, width=4, height=4, mappings=None, decimals=None, names=False):
    """One value now, large; its colour says whether it is well."""
    defaults = {"thresholds": colors, "color": {"mode": "thresholds"}, "mappings": mappings or []}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "reduceOptions": LAST,
        "orientation": "auto",
        "textMode": "name" if names else "auto",
        "colorMode": "none" if names else "background",
        "graphMode": "none",
        "justifyMode": "center",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return _panel("stat", title, text, unit, queries, width, height, options, defaults, instant=True)


def bars(title, text, unit, queries, colors=None, width=8, height=8, low=0, top=None):
    """One bar for each name, now."""
    defaults = {"thresholds": colors or steps(BLUE), "color": {"mode": "thresholds"}, **bounds(low, top)}
    options = {
        "reduceOptions": LAST,
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "legend": {**LEGEND, "showLegend": False},
    }
    return _panel("bargauge", title, text, unit, queries, width, height, options, defaults, instant=True)


def states(title, text, queries, mappings, width=8, height=8):
    """The states over time: a coloured band for each name."""
    defaults = {
        "mappings": mappings,
        "color": {"mode": "thresholds"},
        "custom": {"lineWidth": 0, "fillOpacity": 70},
    }
    options = {
        "mergeValues": True,
        "showValue": "never",
        "alignValue": "left",
        "rowHeight": 0.8,
        "legend": LEGEND,
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return _panel("state-timeline", title, text, "none", queries, width, height, options, defaults)


def heat(title, text, expression, width=12, height=8):
    """A histogram over time: the darker, the more of them took so long."""
    options = {
        "calculate": False,
        "yAxis": {"axisPlacement": "left", "unit": "s"},
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "color": {"mode": "scheme", "scheme": "Blues", "fill": "dark-blue", "scale": "exponential", "exponent": 0.5,
                  "steps": 64, "reverse": False},
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "legend": {"show": True},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }
    defaults = {"custom": {"scaleDistribution": {"type": "linear"}}}
    return _panel("heatmap", title, text, "short", {"{{le}}": expression}, width, height, options, defaults, form="heatmap")
