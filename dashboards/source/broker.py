"""The brokers: is it well, is it in time, and if not, where does it stand still."""

from panel import BLUE, GREEN, GREY, RED, YELLOW, bars, heat, lines, number, states, steps, words

# Prometheus 3 writes the bound 5 as 5.0.
LE_5 = 'le=~"5|5.0"'
DOWN_UP = words({0: ("down", RED), 1: ("up", GREEN)})
NO_YES = words({0: ("no", RED), 1: ("yes", GREEN)})


def quantiles(histogram, *shares):
    """A query for each share, named as people say it."""
    rate = f"sum by (le) (rate({histogram}_bucket{{$}}[$__rate_interval]))"
    names = {0.5: "half within", 0.95: "95 % within", 0.99: "99 % within", 0.999: "99.9 % within"}
    return {names[share]: f"histogram_quantile({share}, {rate})" for share in shares}


def rate(metric, more=""):
    """All brokers' events a second."""
    return f"sum(rate({metric}{{${more}}}[$__rate_interval]))"


WELL = ("Is it well?", [
    number("Brokers ready", "Brokers that say of themselves that they are ready: the database answers, their own notifications come \
        back, and they are not stopping. With none nothing is delivered.", "none",
        {"ready": "sum(postbell_broker_ready{$}) or vector(0)"}, steps(RED, (1, GREEN))),
    number("Brokers that answer", "Brokers that answered the last scrape, of those that Prometheus knows.", "percentunit",
        {"answer": "avg(up{$}) or vector(0)"}, steps(RED, (0.01, YELLOW), (1, GREEN)), decimals=0),
    number("Delivered within 5 s", "The share of deliveries in the time shown that waited for a broker for less than 5 seconds. The \
        objective is 99.9 %. A delivery whose agent is away or busy is not counted.", "percentunit",
        {"in time": f"sum(increase(postbell_wait_seconds_bucket{{$, {LE_5}}}[$__range])) \
                      / sum(increase(postbell_wait_seconds_count{{$}}[$__range]))"},
        steps(RED, (0.999, GREEN)), decimals=3),
    number("Longest wait now", "The longest that a message waits for a broker right now, though its agent is connected and has room. \
        0 while all goes well; over 5 s somebody is paged.", "s",
        {"wait": "max(postbell_longest_wait_seconds{$})"}, steps(GREEN, (1, YELLOW), (5, RED))),
    number("Messages a second", "Deliveries written to agents, over all brokers.", "mps",
        {"pushed": rate("postbell_pushed_total")}, steps(BLUE)),
    number("Alerts that fire", "Postbell's alerts of dashboards/alerts.yml that fire right now. The list is in Grafana's or \
        Prometheus's page of alerts.", "none",
        {"alerts": 'count(ALERTS{alertname=~"Postbell.*", alertstate="firing", job=~"$job|"}) or vector(0)'}, steps(GREEN, (1, RED))),
])

FLOW = ("How much goes through?", [
    lines("Deliveries", "Deliveries a second by what became of them. Pushed is above acknowledged while agents fail or fall behind; \
        read is above pushed while agents are away.", "mps", {
            "made after the commit": rate("postbell_routed_total"),
            "read from the database": rate("postbell_tail_rows_total"),
            "pushed to agents": rate("postbell_pushed_total"),
            "acknowledged": rate("postbell_acked_total"),
            "failed": rate("postbell_failed_total"),
            "expired": rate("postbell_expired_total"),
        }, width=6),
    lines("Sent through the broker", "Messages a second that agents sent by the protocol and that were committed, without those \
        inserted by SQL. Refused: over the limits of the agent's role, or against them.", "mps", {
            "sent": rate("postbell_published_total"),
            "refused, {{code}}": "sum by (code) (rate(postbell_sends_refused_total{$}[$__rate_interval]))",
        }, width=6),
    lines("Router", "1 for the broker to which busy producers leave the routing of their messages. In a quiet mesh there is none, and \
        triggers route.", "short", {"{{instance}}": "postbell_router{$}"}, stacked=True, width=6),
    lines("With agents", "Deliveries pushed and not yet settled, by broker.", "short",
        {"{{instance}}": "postbell_in_flight{$}"}, stacked=True, width=6),
])

TIME = ("Is it in time?", [
    heat("Wait for the broker", "How long deliveries waited for a broker, from when they were ready and their agent had room to the \
        write on the socket; the darker, the more. A delivery above 5 broke the promise.",
        "sum by (le) (increase(postbell_wait_seconds_bucket{$}[$__rate_interval]))"),
    lines("Wait for the broker, by share", "The same as shares of all deliveries. An idle mesh shows a millisecond or two; the line is \
        the promise of 5 s.", "s", quantiles("postbell_wait_seconds", 0.5, 0.95, 0.99, 0.999), width=12, limit=5),
    lines("From insert to agent", "From the message's created_at to the write on its agent's socket, on every push. Unlike the wait for \
        the broker this has in it that agents are away or busy, delays that senders ask for, and retries.", "s",
        quantiles("postbell_delivery_seconds", 0.5, 0.95, 0.99)),
    lines("The agents' own work", "From the write on the socket to the acknowledgement.", "s",
        quantiles("postbell_handling_seconds", 0.5, 0.95, 0.99)),
    lines("Error budget burnt", "How fast deliveries later than 5 s use up the 0.1 % that may be: at 1 the budget of 30 days lasts just \
        so long. Somebody is paged above 14.4 over an hour, or above 6 over six hours.", "none", {
            "over 1 hour": 'max(job:postbell_late:ratio_rate1h{job="$job"}) / 0.001',
            "over 6 hours": 'max(job:postbell_late:ratio_rate6h{job="$job"}) / 0.001',
        }, limit=14.4),
])

WAITING = ("What waits?", [
    lines("Waiting, by priority", "Deliveries in the database that are ready and not yet settled, those with agents among them. \
        1 is the most urgent.", "short",
        {"priority {{priority}}": "max by (priority) (postbell_ready{$})"}, stacked=True),
    lines("Age of the oldest, by priority", "How long ago the oldest ready delivery of each priority was created. An agent that is away \
        lets it grow; whether a broker is to blame says the longest wait.", "s", {
            "priority {{priority}}": "max by (priority) ((timestamp(postbell_oldest_ready_timestamp_seconds{$}) \
                - postbell_oldest_ready_timestamp_seconds{$}) * (postbell_oldest_ready_timestamp_seconds{$} > bool 0))",
        }),
    bars("For whom most waits", "The ten agents with the most ready deliveries.", "short",
        {"{{agent}}": "topk(10, max by (agent) (postbell_agent_waiting{$}))"}),
    lines("Longest wait", "The longest that a message waits for a broker though its agent is connected and has room, by broker. Anything \
        that stays above 0 says that a lease, the database or the tail does not go on.", "s",
        {"{{instance}}": "postbell_longest_wait_seconds{$}"}, limit=5),
    lines("Outcomes to write", "Acknowledgements and failures that wait to be written. Their number grows while the database is slow or away; \
        an inbox with 50,000 of them gets nothing more.", "short", {"{{instance}}": "postbell_unsettled{$}"}),
    lines("For nobody we know", "Ready deliveries for names that are no registered agent's. Most often a name is misspelled; \
        postbell doctor names them.", "short", {"unknown recipient": "max(postbell_unknown_recipient{$})"}),
])

FAILURES = ("What fails?", [
    lines("Failed attempts, by reason", "Each is tried again or becomes a dead letter. nack: the agent said so. deadline: no \
        acknowledgement in time. disconnect: the session ended before it.", "eps",
        {"{{reason}}": "sum by (reason) (rate(postbell_failed_total{$}[$__rate_interval]))"}, width=6),
    lines("New dead letters, by reason", "Deliveries that were given up. max_attempts: failed as often as they may. rejected: the agent \
        refused it for good. payload_too_large: it does not fit into a line. unreadable: its row cannot be read.", "short",
        {"{{reason}}": "sum by (reason) (increase(postbell_dead_total{$}[$__rate_interval]))"}, events=True, width=6),
    lines("Set aside, by kind", "Outcomes of messages, and agents' presence, that the tables of the mesh do not take, by a constraint, \
        a trigger or a lock. Delivery goes on; postbell aside list says why.", "short",
        {"{{kind}}": "max by (kind) (postbell_set_aside{$})"}, width=6),
    lines("Connections that ended, by reason", "bye: the client said so. disconnect: the socket ended. The others are the codes of the \
        errors that brokers closed them with. Many at once are a reconnect storm.", "eps",
        {"{{reason}}": "topk(8, sum by (reason) (rate(postbell_closed_total{$}[$__rate_interval])))"}, width=6),
    lines("Hidden messages, lost leases", "Looks at deliveries whose message row level security hides from the broker, and leases that \
        somebody deleted or changed. Each is mended by itself; both should be rare.", "short", {
            "looks at hidden messages": "sum(increase(postbell_unseen_total{$}[$__rate_interval]))",
            "leases lost": "sum(increase(postbell_leases_lost_total{$}[$__rate_interval]))",
        }, events=True, width=24),
])

BELL = ("Does the bell ring?", [
    heat("Round trip of the canary", "From a broker's notification to itself until it heard it, once a second: the floor of every \
        delivery to a broker that sleeps.",
        "sum by (le) (increase(postbell_bell_roundtrip_seconds_bucket{$}[$__rate_interval]))", width=8),
    states("The bell is heard", "Whether each broker's own notifications come back. Without them messages are found by the tail, a \
        second late at most.", {"{{instance}}": 'postbell_condition_ok{$, condition="bell"}'}, NO_YES),
    states("Asleep or awake", "Asleep: producers ring for the broker. Awake: it is busy and reads on its own clock, and nobody rings.",
        {"{{instance}}": "postbell_bell_armed{$}"}, words({0: ("awake", YELLOW), 1: ("asleep", BLUE)})),
    lines("Rings", "Notifications that woke brokers, a second. Few: either nothing is sent, or so much that nobody sleeps.", "eps",
        {"{{instance}}": "rate(postbell_bell_rings_total{$}[$__rate_interval])"}),
    lines("Missed rings", "Deliveries that only the tail found though the bell should have announced them. Anything but 0 means that \
        notifications are lost.", "short", {"missed": "sum(increase(postbell_tail_late_total{$}[$__rate_interval]))"},
        events=True),
    lines("Queue of notifications", "How full the server's queue is. Over one half the bell is off; most often a session that listens \
        sits idle in a transaction.", "percentunit",
        {"full": "max(postbell_notify_queue_ratio{$})"}, limit=0.5, top=1),
])

DATABASE = ("Does the database keep up?", [
    states("The database answers", "Whether each broker's last statement reached the database.",
        {"{{instance}}": "postbell_database_up{$}"}, DOWN_UP, width=6),
    lines("Standstill", "How long a duty of a broker has had something to do and could not: 0 while it gets on, from 5 s on \
        otherwise. `postbell doctor` says why.", "s",
        {"{{instance}} {{duty}}": "postbell_standstill_seconds{$}"}, width=6),
    lines("Batches of outcomes", "Statements a second that write outcomes, by broker.", "ops",
        {"{{instance}}": "rate(postbell_settle_batch_count{$}[$__rate_interval])"}, width=6),
    lines("Outcomes in a batch", "Few: the brokers idle. Near 1,000: the database is what limits.", "short",
        {"mean": "sum(rate(postbell_settle_batch_sum{$}[$__rate_interval])) \
            / (sum(rate(postbell_settle_batch_count{$}[$__rate_interval])) > 0) \
            or sum(rate(postbell_settle_batch_count{$}[$__rate_interval])) * 0",
         "95 % at most": "histogram_quantile(0.95, sum by (le) (rate(postbell_settle_batch_bucket{$}[$__rate_interval])))"}, width=6),
])

BROKERS = ("How is it shared among the brokers?", [
    lines("Sessions", "Agents' connections that were welcomed, by broker.", "short",
        {"{{instance}}": "postbell_sessions{$}"}, width=6, stacked=True),
    lines("Inboxes", "Inboxes that each broker owns: one owner each.", "short",
        {"{{instance}}": "postbell_inboxes{$}"}, width=6, stacked=True),
    lines("Links", "Sessions whose inbox another broker owns, by the broker they came to. Many cost a hop each; they end when agents \
        connect anew.", "short", {"{{instance}}": "postbell_links{$}"}, width=6),
    states("Stopping", "A broker that stops finishes what is in flight and takes no new session.",
        {"{{instance}}": 'postbell_condition_ok{$, condition="draining"}'},
        words({0: ("stopping", YELLOW), 1: ("serving", GREEN)}), width=6),
])

PROCESS = ("The processes", [
    lines("Memory", "Resident memory, by broker.", "bytes", {"{{instance}}": "process_resident_memory_bytes{$}"}, width=6),
    lines("Processor", "Cores in use, by broker: 1 is one whole core.", "none",
        {"{{instance}}": "rate(process_cpu_seconds_total{$}[$__rate_interval])"}, width=6),
    lines("Open files", "Share of the open files (a connection is one) that the process may have.", "percentunit",
        {"{{instance}}": "process_open_fds{$} / process_max_fds{$}"}, width=6, limit=0.8, top=1),
    lines("Threads", "Threads of the process, by broker.", "none", {"{{instance}}": "process_threads{$}"}, width=6),
    number("Version", "The version, protocol and build of each broker.", "none",
        {"{{instance}}: {{version}}, {{profile}}": "postbell_build_info{$}"}, steps(GREY), width=8, names=True),
    number("Up since", "When each broker was started.", "dateTimeFromNow",
        {"{{instance}}": "process_start_time_seconds{$} * 1000"}, steps(BLUE), width=8),
    number("Certificate of the agents' port", "Days until it expires, the lowest of all brokers; without TLS there is none.", "d",
        {"left": "min((postbell_tls_expires_timestamp_seconds{$} > 0) - time()) / 86400 or vector(-1)"},
        steps(RED, (14, YELLOW), (30, GREEN)), mappings=words({-1: ("no TLS", GREY)}), decimals=0),
    number("Certificate not read", "Times that the certificate's files changed and were of no use; the old one stays.", "none",
        {"failures": "sum(increase(postbell_tls_reload_failures_total{$}[$__range]))"}, steps(GREEN, (1, RED)), decimals=0),
])

BROKER = {
    "title": "Postbell: brokers",
    "text": "Is it well, is it in time, and if not, where does it stand still? src/watch/metrics.rs says what each metric is.",
    "links": [("postbell-mesh", "The mesh", "Agents, what flows between them, dead letters and alerts")],
    "rows": [WELL, FLOW, TIME, WAITING, FAILURES, BELL, DATABASE, BROKERS, PROCESS],
}
