"""The mesh: who is there, who talks to whom, what was given up, what agents raise and measure.

All brokers tell the same of the database, so such figures are `max by (…)` over the brokers; a session is one broker's.
"""

from panel import BLUE, GREEN, RED, YELLOW, bars, for_each, lines, number, states, steps, words

HERE_AWAY = words({0: ("away", RED), 1: ("here", GREEN)})

# One value for each agent, whichever broker it is connected to.
CONNECTED = "max by (agent, environment) (postbell_agent_connected{$})"
FLOW = "max by (from_environment, to_environment) (rate(postbell_flow_total{$}[$__rate_interval]))"

WHOLE = ("Is the mesh whole?", [
    number("Agents connected", "Registered agents that have a session with some broker.", "none",
        {"connected": f"sum({CONNECTED}) or max(postbell_agents_connected{{$}})"}, steps(RED, (1, GREEN))),
    number("Agents registered", "Agents in the registry that may connect. Jobs that run now and then are away most of the time.",
        "none", {"registered": "max(postbell_agents_known{$})"}, steps(BLUE)),
    number("Under 99 % uptime", "Agents that were here for less than 99 % of the last day.", "none",
        {"agents": "count(max by (agent) (postbell_agent_uptime_ratio{$}) < 0.99) or vector(0)"}, steps(GREEN, (1, YELLOW))),
    number("Waiting", "Deliveries that are ready and not yet settled, those with agents among them.", "short",
        {"waiting": "sum(max by (priority) (postbell_ready{$}))"}, steps(BLUE)),
    number("Dead letters", "Deliveries that were given up and lie in the database until somebody redrives or purges them.", "short",
        {"dead letters": "sum(max by (agent) (postbell_dead_letters{$}))"}, steps(GREEN, (1, YELLOW))),
    number("Active alerts", "Alerts of the last 30 days that nobody has acknowledged or resolved.", "none",
        {"active": 'sum(max by (severity) (postbell_alerts{$, status="active"}))'}, steps(GREEN, (1, YELLOW))),
])

WHO = ("Who is where?", [
    bars("Agents by environment and status", "The agents' status in the registry: online and busy are there, offline is not.", "none",
        {"{{environment}}, {{status}}": "max by (environment, status) (postbell_agents{$})"}),
    lines("Connected, by environment", "Agents with a session, by the environment they are registered in.", "none",
        {"{{environment}}": f"sum by (environment) ({CONNECTED})"}, stacked=True),
    states("Here or away", "Each agent's connection. A band that is broken often is an agent that loses it; past 1,000 agents there \
        are no bands.", {"{{agent}}": f"max by (agent) ({CONNECTED})"}, HERE_AWAY),
])

UPTIME = ("Are they there as they should?", [
    bars("Uptime of the last day, the lowest", "The share of the last 24 hours in which an agent was here; the target is 99 %. A \
        scheduled job is here only while it runs.", "percentunit",
        {"{{agent}}": "bottomk(15, max by (agent) (postbell_agent_uptime_ratio{$}))"},
        steps(RED, (0.95, YELLOW), (0.99, GREEN)), width=12, top=1),
    lines("Uptime of the last day", "The same over time. The line is the target.", "percentunit",
        {"{{agent}}": "bottomk(15, max by (agent) (postbell_agent_uptime_ratio{$}))"}, width=12, limit=0.99, top=1),
])

TALK = ("Who talks to whom?", [
    lines("Between environments", "Messages a second from one environment to another. (many): to a topic or to everybody.", "mps",
        {"{{from_environment}} to {{to_environment}}": f"topk(15, {FLOW})"}, width=12, stacked=True),
    bars("Busiest pairs of agents", "Messages a second from one agent to another, the ten pairs with the most.", "mps",
        {"{{from_agent}} to {{to_agent}}": "topk(10, max by (from_agent, to_agent) (postbell_agent_flow{$}))"}, width=12),
    bars("Who sends most", "Messages a second by sender.", "mps",
        {"{{from_agent}}": "topk(10, sum by (from_agent) (max by (from_agent, to_agent) (postbell_agent_flow{$})))"}),
    bars("Who is sent most", "Messages a second by recipient.", "mps",
        {"{{to_agent}}": "topk(10, sum by (to_agent) (max by (from_agent, to_agent) (postbell_agent_flow{$})))"}),
    bars("For whom most waits", "Ready deliveries by agent. One that is away lets them wait; one that is here is slow.", "short",
        {"{{agent}}": "topk(10, max by (agent) (postbell_agent_waiting{$}))"}),
])

DEAD = ("What was given up?", [
    bars("Dead letters, by agent", "Deliveries that lie in the database as dead, by the agent they were for. postbell dead list shows \
        them with their reasons, postbell dead redrive sends them again.", "short",
        {"{{agent}}": "topk(10, max by (agent) (postbell_dead_letters{$}))"}, steps(YELLOW)),
    lines("Dead letters in all", "Deliveries that lie in the database as dead.", "short",
        {"dead letters": "sum(max by (agent) (postbell_dead_letters{$}))"}),
    lines("New ones, by reason", "max_attempts: failed as often as they may. rejected: the agent refused it for good. \
        payload_too_large: it does not fit into a line. unreadable: its row cannot be read.", "short",
        {"{{reason}}": "sum by (reason) (increase(postbell_dead_total{$}[$__rate_interval]))"}, events=True),
])

RAISED = ("What do agents raise?", [
    lines("Active alerts, by severity", "Alerts of the last 30 days that nobody has acknowledged or resolved.", "none",
        {"{{severity}}": 'max by (severity) (postbell_alerts{$, status="active"})'}, stacked=True),
    lines("Open alerts, by status", "Active ones wait for somebody; acknowledged ones are being looked at.", "none",
        {"{{status}}": 'sum by (status) (max by (severity, status) (postbell_alerts{$}))'}),
    lines("Raised and escalated by the brokers", "Raised: an agent went without a goodbye and stayed away. Escalated: nobody \
        acknowledged an alert in time, and the orchestrators were told.", "none", {
            "raised": "sum(increase(postbell_alerts_raised_total{$}[$__rate_interval]))",
            "escalated": "sum(increase(postbell_alerts_escalated_total{$}[$__rate_interval]))",
        }, events=True),
])

MEASURED = ("What do agents measure?", [
    number("Measurements that are not shown", "Agents wrote more names and values than are exported (1,000), or names that are too \
        long.", "none", {"dropped": "max(postbell_agent_metrics_dropped{$})"}, steps(GREEN, (1, YELLOW)), width=24, height=3),
    for_each("name", lines("$name", "Values that agents wrote to agent_metrics under this name, in the unit they chose. The names are chosen at the top.",
        "short", {"{{agent}}": 'max by (agent) (postbell_agent_metric{$, agent=~"$agent", name="$name"})'}, width=24, low=None)),
])

MESH = {
    "title": "Postbell: mesh",
    "text": "Who is there, who talks to whom, what was given up, and what agents raise and measure.",
    "links": [("postbell-broker", "The brokers", "Are they well, and is everything in time?")],
    "rows": [WHOLE, WHO, UPTIME, TALK, DEAD, RAISED, MEASURED],
    "variables": [
        {"name": "agent", "label": "Agent", "text": "Whose measurements.", "many": True, "every": True,
         "query": 'label_values(postbell_agent_metric{job="$job"}, agent)'},
        {"name": "name", "label": "Measurement", "text": "Which measurements; a panel each.", "many": True,
         "query": 'label_values(postbell_agent_metric{job="$job", agent=~"$agent"}, name)'},
    ],
}
