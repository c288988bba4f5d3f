-- What the migrations and triggers make, written by the test `schema_sql_is_what_the_migrations_make`
-- (POSTBELL_BLESS=1 cargo test schema_sql). Read it to know the tables; never run or edit it.

create type postbell.delivery_state as enum ('ready', 'scheduled', 'dead');

create table postbell.broadcasts (
  message_id uuid not null,
  constraint broadcasts_pkey PRIMARY KEY (message_id)
);

create table postbell.brokers (
  broker_id uuid not null,
  name text not null,
  address text not null,
  version text not null,
  started_at timestamp with time zone not null default now(),
  lease_until timestamp with time zone not null,
  armed boolean not null default false,
  token_hash bytea,
  certificate_sha256 text,
  standstill text,
  constraint brokers_pkey PRIMARY KEY (broker_id),
  constraint brokers_token_hash_check CHECK ((octet_length(token_hash) = 32))
) with (fillfactor=50);

create table postbell.deliveries (
  delivery_id bigint not null generated always as identity,
  txid xid8 not null default pg_current_xact_id(),
  message_id uuid not null,
  due_at timestamp with time zone,
  dead_at timestamp with time zone,
  state postbell.delivery_state not null default 'ready'::postbell.delivery_state,
  priority smallint not null,
  attempt smallint not null default 0,
  inbox text not null,
  last_error text,
  ordering_key text,
  constraint deliveries_pkey PRIMARY KEY (delivery_id)
) with (autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=20000, autovacuum_vacuum_insert_scale_factor=0.2);
CREATE INDEX deliveries_dead ON postbell.deliveries USING btree (inbox, delivery_id) WHERE (state = 'dead'::postbell.delivery_state);
CREATE INDEX deliveries_due ON postbell.deliveries USING btree (due_at) WHERE (state = 'scheduled'::postbell.delivery_state);
CREATE INDEX deliveries_key ON postbell.deliveries USING btree (inbox, ordering_key, delivery_id) WHERE ((ordering_key IS NOT NULL) AND (state = 'ready'::postbell.delivery_state));
CREATE INDEX deliveries_lane ON postbell.deliveries USING btree (inbox, priority, delivery_id) WHERE (state = 'ready'::postbell.delivery_state);
CREATE INDEX deliveries_message ON postbell.deliveries USING btree (message_id);
CREATE INDEX deliveries_tail ON postbell.deliveries USING btree (txid) WHERE (dead_at IS NULL);

create table postbell.escalations (
  alert_id uuid not null,
  raised_at timestamp with time zone not null default now(),
  constraint escalations_pkey PRIMARY KEY (alert_id)
);
CREATE INDEX escalations_raised ON postbell.escalations USING btree (raised_at);

create table postbell.grants (
  kind text not null,
  name text not null,
  agent_id text not null,
  created_at timestamp with time zone not null default now(),
  constraint grants_kind_check CHECK ((kind = ANY (ARRAY['group'::text, 'lock'::text]))),
  constraint grants_pkey PRIMARY KEY (kind, name, agent_id)
);

create table postbell.leases (
  inbox text not null,
  broker_id uuid not null,
  epoch bigint not null default nextval('postbell.epochs'::regclass),
  acquired_at timestamp with time zone not null default now(),
  wanted_until timestamp with time zone,
  constraint leases_pkey PRIMARY KEY (inbox)
);
CREATE INDEX leases_broker ON postbell.leases USING btree (broker_id);
CREATE INDEX leases_wanted ON postbell.leases USING btree (broker_id) WHERE (wanted_until IS NOT NULL);

create table postbell.locks (
  key text not null,
  fence bigint not null default nextval('postbell.fences'::regclass),
  agent_id text not null,
  until timestamp with time zone not null,
  done_at timestamp with time zone,
  constraint locks_pkey PRIMARY KEY (key)
);
CREATE INDEX locks_done ON postbell.locks USING btree (agent_id) WHERE (done_at IS NOT NULL);
CREATE INDEX locks_held ON postbell.locks USING btree (agent_id, until) WHERE (done_at IS NULL);
CREATE INDEX locks_until ON postbell.locks USING btree (until);

create table postbell.looked (
  only_row boolean not null default true,
  marks text not null,
  at timestamp with time zone not null default now(),
  constraint looked_only_row_check CHECK (only_row),
  constraint looked_pkey PRIMARY KEY (only_row)
);

create table postbell.migrations (
  version integer not null,
  name text not null,
  sha256 text not null,
  applied_at timestamp with time zone not null default now(),
  by text not null default CURRENT_USER,
  constraint migrations_pkey PRIMARY KEY (version)
);

create table postbell.presence_history (
  span_id bigint not null generated always as identity,
  since timestamp with time zone not null default now(),
  until timestamp with time zone not null default 'infinity'::timestamp with time zone,
  alert_id uuid,
  agent_id text not null,
  status text not null,
  reason text,
  constraint presence_history_pkey PRIMARY KEY (span_id)
);
CREATE INDEX presence_history_agent ON postbell.presence_history USING btree (agent_id, until);
CREATE UNIQUE INDEX presence_history_open ON postbell.presence_history USING btree (agent_id) WHERE (until = 'infinity'::timestamp with time zone);
CREATE INDEX presence_history_until ON postbell.presence_history USING btree (until) WHERE (until < 'infinity'::timestamp with time zone);
CREATE INDEX presence_history_untold ON postbell.presence_history USING btree (since) WHERE ((until = 'infinity'::timestamp with time zone) AND (alert_id IS NULL) AND (reason = ANY (ARRAY['disconnected'::text, 'silent'::text, 'broker_gone'::text])));

create table postbell.role_limits (
  role text not null,
  sends_per_second bigint,
  sends_burst bigint,
  send_bytes_per_second bigint,
  send_bytes_burst bigint,
  publishes_outstanding bigint,
  connections bigint,
  hold_seconds bigint,
  may_take_groups boolean not null default true,
  may_lock boolean not null default true,
  locks_held bigint,
  locks_done bigint,
  subscriptions bigint,
  requests_per_second bigint,
  requests_burst bigint,
  constraint role_limits_check CHECK (((sends_per_second IS NULL) = (sends_burst IS NULL))),
  constraint role_limits_check1 CHECK (((send_bytes_per_second IS NULL) = (send_bytes_burst IS NULL))),
  constraint role_limits_check2 CHECK (((requests_per_second IS NULL) = (requests_burst IS NULL))),
  constraint role_limits_connections_check CHECK ((connections > 0)),
  constraint role_limits_hold_seconds_check CHECK ((hold_seconds > 0)),
  constraint role_limits_locks_done_check CHECK ((locks_done > 0)),
  constraint role_limits_locks_held_check CHECK ((locks_held > 0)),
  constraint role_limits_pkey PRIMARY KEY (role),
  constraint role_limits_publishes_outstanding_check CHECK ((publishes_outstanding > 0)),
  constraint role_limits_requests_burst_check CHECK ((requests_burst > 0)),
  constraint role_limits_requests_per_second_check CHECK ((requests_per_second > 0)),
  constraint role_limits_send_bytes_burst_check CHECK ((send_bytes_burst > 0)),
  constraint role_limits_send_bytes_per_second_check CHECK ((send_bytes_per_second > 0)),
  constraint role_limits_sends_burst_check CHECK ((sends_burst > 0)),
  constraint role_limits_sends_per_second_check CHECK ((sends_per_second > 0)),
  constraint role_limits_subscriptions_check CHECK ((subscriptions > 0))
);

create table postbell.router (
  only_row boolean not null default true,
  broker_id uuid,
  epoch bigint not null default 0,
  routed pg_snapshot not null default pg_current_snapshot(),
  constraint router_only_row_check CHECK (only_row),
  constraint router_pkey PRIMARY KEY (only_row)
) with (fillfactor=10, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500);

create table postbell.self_routed (
  txid xid8 not null,
  constraint self_routed_pkey PRIMARY KEY (txid)
);

create table postbell.set_aside (
  aside_id bigint not null generated always as identity,
  message_id uuid,
  delivery_id bigint,
  inbox text not null,
  kind text not null,
  status text not null,
  error_message text,
  reason text not null,
  since timestamp with time zone not null default now(),
  tries integer not null default 1,
  next_try timestamp with time zone not null,
  dropped_at timestamp with time zone,
  constraint set_aside_pkey PRIMARY KEY (aside_id)
);
CREATE INDEX set_aside_due ON postbell.set_aside USING btree (next_try) WHERE ((dropped_at IS NULL) AND (message_id IS NOT NULL));
CREATE UNIQUE INDEX set_aside_message ON postbell.set_aside USING btree (message_id, inbox) WHERE (message_id IS NOT NULL);
CREATE UNIQUE INDEX set_aside_presence ON postbell.set_aside USING btree (inbox) WHERE (kind = 'presence'::text);

create table postbell.subscriptions (
  pattern text not null,
  agent_id text not null,
  created_at timestamp with time zone not null default now(),
  constraint subscriptions_pkey PRIMARY KEY (pattern, agent_id)
);
CREATE INDEX subscriptions_agent ON postbell.subscriptions USING btree (agent_id);

create table postbell.triggers (
  name text not null,
  sha256 text not null,
  applied_at timestamp with time zone not null default now(),
  constraint triggers_pkey PRIMARY KEY (name)
);

create table postbell.unseen (
  noted_id bigint not null generated always as identity,
  message_id uuid not null,
  moved boolean not null,
  set_back boolean not null,
  txid xid8,
  constraint unseen_pkey PRIMARY KEY (noted_id)
);

create table public.agent_alerts (
  alert_id uuid not null default postbell.uuid_v7(),
  agent_id text not null,
  alert_type text not null,
  severity text not null,
  message text not null,
  details jsonb default '{}'::jsonb,
  status text default 'active'::text,
  created_at timestamp with time zone default now(),
  acknowledged_at timestamp with time zone,
  resolved_at timestamp with time zone,
  resolved_by text,
  escalated_at timestamp with time zone,
  constraint agent_alerts_pkey PRIMARY KEY (alert_id),
  constraint agent_alerts_severity_check CHECK ((severity = ANY (ARRAY['low'::text, 'medium'::text, 'high'::text, 'critical'::text]))),
  constraint agent_alerts_status_check CHECK ((status = ANY (ARRAY['active'::text, 'acknowledged'::text, 'resolved'::text])))
);
CREATE INDEX agent_alerts_created_at ON public.agent_alerts USING btree (created_at);
alter table public.agent_alerts enable row level security;

create table public.agent_messages (
  message_id uuid not null default postbell.uuid_v7(),
  from_agent_id text not null,
  to_agent_id text,
  message_type text not null,
  payload jsonb not null,
  priority integer default 5,
  status text default 'pending'::text,
  created_at timestamp with time zone default now(),
  delivered_at timestamp with time zone,
  processed_at timestamp with time zone,
  error_message text,
  correlation_id text,
  dedupe_key text,
  deliver_at timestamp with time zone,
  expires_at timestamp with time zone,
  headers jsonb,
  topic text,
  to_environment text,
  to_group text,
  to_instance text,
  ordering_key text,
  left_txid xid8 default  CASE WHEN ((current_setting('postbell.left'::text, true) = '1'::text) AND (pg_stat_get_xact_tuples_inserted(('agent_messages'::regclass)::oid) < (current_setting('postbell.left_to'::text, true))::bigint)) THEN pg_current_xact_id() ELSE NULL::xid8 END,
  left_at timestamp with time zone default  CASE WHEN (current_setting('postbell.left'::text, true) = '1'::text) THEN clock_timestamp() ELSE NULL::timestamp with time zone END,
  constraint agent_messages_message_type_check CHECK ((message_type = ANY (ARRAY['command'::text, 'query'::text, 'response'::text, 'alert'::text, 'heartbeat'::text, 'data'::text]))),
  constraint agent_messages_pkey PRIMARY KEY (message_id),
  constraint agent_messages_priority_check CHECK (((priority >= 1) AND (priority <= 10))),
  constraint agent_messages_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'delivered'::text, 'processed'::text, 'failed'::text])))
) with (fillfactor=50);
CREATE INDEX agent_messages_created_at ON public.agent_messages USING btree (created_at);
CREATE UNIQUE INDEX agent_messages_dedupe ON public.agent_messages USING btree (from_agent_id, dedupe_key) WHERE (dedupe_key IS NOT NULL);
CREATE INDEX agent_messages_expires ON public.agent_messages USING btree (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX agent_messages_left ON public.agent_messages USING btree (left_txid) WHERE (left_txid IS NOT NULL);
alter table public.agent_messages enable row level security;

create table public.agent_metrics (
  metric_id uuid not null default postbell.uuid_v7(),
  agent_id text not null,
  metric_type text not null,
  metric_name text not null,
  metric_value numeric,
  metric_unit text,
  metadata jsonb default '{}'::jsonb,
  recorded_at timestamp with time zone default now(),
  constraint agent_metrics_pkey PRIMARY KEY (metric_id)
);
CREATE INDEX agent_metrics_recorded_at ON public.agent_metrics USING btree (recorded_at);
alter table public.agent_metrics enable row level security;

create table public.agent_registry (
  agent_id text not null,
  agent_name text not null,
  agent_type text not null,
  environment text not null,
  status text not null,
  last_heartbeat timestamp with time zone,
  capabilities jsonb default '{}'::jsonb,
  endpoint_url text,
  metadata jsonb default '{}'::jsonb,
  created_at timestamp with time zone default now(),
  updated_at timestamp with time zone default now(),
  role text not null default 'agent'::text,
  enabled boolean not null default true,
  token_hash bytea,
  token_set_at timestamp with time zone,
  token_hash_previous bytea,
  token_previous_until timestamp with time zone,
  agent_version text,
  connected_to uuid[],
  offline_reason text,
  constraint agent_registry_pkey PRIMARY KEY (agent_id),
  constraint agent_registry_role_check CHECK ((role = ANY (ARRAY['agent'::text, 'orchestrator'::text]))),
  constraint agent_registry_status_check CHECK ((status = ANY (ARRAY['online'::text, 'offline'::text, 'busy'::text, 'error'::text, 'starting'::text, 'stopping'::text]))),
  constraint agent_registry_token_hash_check CHECK ((octet_length(token_hash) = 32)),
  constraint agent_registry_token_hash_previous_check CHECK ((octet_length(token_hash_previous) = 32))
);
alter table public.agent_registry enable row level security;

create view postbell.agents as
 SELECT agent_id,
    environment,
    role
   FROM agent_registry
  WHERE enabled IS NOT FALSE;

create view postbell.alerts as
 SELECT agent_alerts.alert_id,
    agent_alerts.status,
    agent_alerts.resolved_at,
    agent_alerts.resolved_by
   FROM agent_alerts;

create view postbell.dead_letters as
 SELECT regexp_replace(COALESCE(deliveries.last_error, '(none)'::text), '[0-9]+'::text, '#'::text, 'g'::text) AS reason,
    count(*) AS letters,
    count(DISTINCT deliveries.inbox) AS inboxes,
    min(deliveries.dead_at) AS first,
    max(deliveries.dead_at) AS last,
    min(deliveries.delivery_id) AS an_example
   FROM postbell.deliveries
  WHERE deliveries.state = 'dead'::postbell.delivery_state
  GROUP BY (regexp_replace(COALESCE(deliveries.last_error, '(none)'::text), '[0-9]+'::text, '#'::text, 'g'::text));

create view postbell.environments as
 SELECT environment,
    count(*) AS agents,
    count(*) FILTER (WHERE enabled IS NOT FALSE) AS enabled,
    count(*) FILTER (WHERE status <> ALL (ARRAY['offline'::text, 'error'::text])) AS alive,
    min(last_heartbeat) AS oldest_heartbeat,
    max(last_heartbeat) AS newest_heartbeat
   FROM agent_registry
  GROUP BY environment;

create view postbell.flow as
 SELECT COALESCE(s.environment, '(not registered)'::text) AS from_environment,
    COALESCE(r.environment, m.to_environment,
        CASE
            WHEN m.to_agent_id IS NULL THEN '(many)'::text
            ELSE '(not registered)'::text
        END) AS to_environment,
    count(*) AS messages,
    count(*) FILTER (WHERE m.status = 'processed'::text) AS processed,
    count(*) FILTER (WHERE m.status = 'failed'::text) AS failed,
    avg(m.processed_at - m.created_at) FILTER (WHERE m.status = 'processed'::text) AS mean_time
   FROM agent_messages m
     LEFT JOIN agent_registry s ON s.agent_id = m.from_agent_id
     LEFT JOIN agent_registry r ON r.agent_id = m.to_agent_id
  WHERE m.created_at > (now() - '1 day'::interval)
  GROUP BY (COALESCE(s.environment, '(not registered)'::text)), (COALESCE(r.environment, m.to_environment,
        CASE
            WHEN m.to_agent_id IS NULL THEN '(many)'::text
            ELSE '(not registered)'::text
        END));

create view postbell.intact as
 SELECT d.message_id,
    d.inbox,
    d.priority,
    d.state,
    d.due_at,
    d.dead_at,
    d.txid,
    d.attempt,
    d.last_error,
    d.ordering_key,
    m.status,
    m.to_agent_id,
    m.to_group,
    m.to_instance,
    m.topic,
    m.to_environment,
    m.from_agent_id,
    m.deliver_at,
    c.message_id AS broadcast,
    z.message_id AS aside,
    u.noted_id,
    u.message_id AS unseen,
    u.moved,
    u.set_back,
    l.inbox AS leased,
    l.broker_id,
    b.lease_until,
    h.span_id,
    h.agent_id,
    h.since,
    h.until,
    h.status AS presence,
    h.reason,
    h.alert_id,
    e.alert_id AS escalated,
    e.raised_at,
    o.topic AS sent,
    a.status AS alert,
    postbell.inbox_of(''::text, ''::text) AS inbox_of,
    postbell.agent_inbox(''::text) AS agent_inbox,
    postbell.alert_topic(''::text) AS alert_topic,
    postbell.alert_priority(''::text) AS alert_priority,
    postbell.users_path('public'::name) AS users_path,
    r.r AS recipient,
    n.last_value,
    u.txid AS unseen_txid,
    m.left_txid,
    m.left_at,
    m.place,
    t.last_value AS left_until,
    w.routed,
    x.txid AS routed_itself
   FROM postbell.deliveries d,
    postbell.messages m,
    postbell.broadcasts c,
    postbell.set_aside z,
    postbell.unseen u,
    postbell.leases l,
    postbell.brokers b,
    postbell.presence_history h,
    postbell.escalations e,
    postbell.outbox o,
    postbell.alerts a,
    postbell.recipients(''::text, ''::text, ''::text) r(r),
    postbell.bell n,
    postbell.subscriptions s,
    postbell.agents g,
    postbell.routed t,
    postbell.router w,
    postbell.self_routed x
  WHERE false AND (s.pattern = ANY (postbell.topic_patterns(''::text))) AND s.agent_id = g.agent_id AND postbell.follow(d.message_id, true, true) = postbell.route_again('{}'::uuid[]) AND postbell.send_alerts(''::name, '{}'::text[], '{}'::text[], '{}'::jsonb[], '{}'::integer[]) IS NULL AND postbell.resolve_alert(''::name, d.message_id) IS NULL AND postbell.shows_left() AND postbell.is_left(m.left_txid) AND postbell.route_own() IS NULL AND postbell.await_router() IS NULL AND postbell.route_these('{}'::uuid[]) = 0;

create view postbell.messages as
 SELECT agent_messages.message_id,
    agent_messages.from_agent_id,
    agent_messages.to_agent_id,
    agent_messages.to_group,
    agent_messages.to_instance,
    agent_messages.topic,
    agent_messages.to_environment,
    agent_messages.ordering_key,
    agent_messages.priority,
    agent_messages.status,
    agent_messages.created_at,
    agent_messages.deliver_at,
    agent_messages.expires_at,
    agent_messages.left_txid,
    agent_messages.left_at,
    agent_messages.ctid AS place
   FROM agent_messages;

create view postbell.outbox as
 SELECT agent_messages.from_agent_id,
    agent_messages.topic,
    agent_messages.message_type,
    agent_messages.payload,
    agent_messages.priority
   FROM agent_messages;

create view postbell.unrouted as
 SELECT count(m.message_id) AS messages,
    min(m.created_at) AS since,
    r.broker_id AS router,
    (EXISTS ( SELECT
           FROM postbell.brokers b
          WHERE b.broker_id = r.broker_id AND b.lease_until > clock_timestamp())) AS router_lives
   FROM postbell.router r
     LEFT JOIN postbell.messages m ON m.left_txid >= pg_snapshot_xmin(r.routed) AND COALESCE(m.status, 'pending'::text) = 'pending'::text AND postbell.is_left(m.left_txid)
  WHERE r.broker_id IS NOT NULL
  GROUP BY r.broker_id;

create view postbell.waiting as
 SELECT d.inbox,
    d.priority,
    count(*) AS messages,
    count(*) FILTER (WHERE d.state = 'scheduled'::postbell.delivery_state) AS scheduled,
    min(m.created_at) AS oldest,
    now() - min(m.created_at) AS oldest_age
   FROM postbell.deliveries d
     JOIN agent_messages m USING (message_id)
  WHERE d.state <> 'dead'::postbell.delivery_state
  GROUP BY d.inbox, d.priority;

CREATE OR REPLACE FUNCTION postbell.add_agent(id text, called text, kind text, place text, rank text, hash bytea)
 RETURNS TABLE(is_new boolean, enabled boolean, environment text, role text)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
begin
  update agent_registry r set token_hash = hash, token_set_at = now() where r.agent_id = id and r.token_hash is null;
  is_new := not found;
  if is_new then
    if exists (select from agent_registry r where r.agent_id = id) then
      if exists (select from agent_registry r where r.agent_id = id and r.token_hash is null) then
        raise exception 'agent_registry keeps the token out without an error: look for a trigger or a rule on it';
      end if;
      return;
    end if;
    execute (
      select format('insert into agent_registry (%s) values (%s) on conflict do nothing',
                    string_agg(quote_ident(a.attname), ', ' order by w.n), string_agg(w.expression, ', ' order by w.n))
      from unnest('{agent_id,agent_name,agent_type,environment,status,role,token_hash,token_set_at}'::text[],
                  array['$1', 'coalesce($2, $1)', 'coalesce($3, $5, ''agent'')', 'coalesce($4, ''pc'')', '''offline''',
                        'coalesce($5, ''agent'')', '$6', 'now()']) with ordinality as w (name, expression, n)
      join pg_attribute a on a.attrelid = to_regclass('agent_registry') and a.attname = w.name and a.attnum > 0
                         and not a.attisdropped and a.attgenerated = ''
    ) using id, called, kind, place, rank, hash;
  end if;
  perform postbell.touch_agent(id);
  return query select is_new, coalesce(r.enabled, true), coalesce(r.environment, 'unknown')::text,
                      coalesce(r.role, 'agent')::text
               from agent_registry r where r.agent_id = id and r.token_hash = hash;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.agent_inbox(agent text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if exists (select from postbell.agents a where a.agent_id = agent) then
    return 'agent:' || agent;
  end if;
  raise exception 'the to_agent_id "%" is no agent''s: "group:" begins the inboxes of groups', agent
    using errcode = 'check_violation', hint = 'To send to a group, write its name into to_group and leave to_agent_id null.';
end
$function$
;

CREATE OR REPLACE FUNCTION public.agent_uptime(period interval DEFAULT '24:00:00'::interval)
 RETURNS TABLE(agent_id text, environment text, uptime double precision, online_seconds double precision, offline_seconds double precision)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select a.agent_id::text, a.environment::text, s.online / nullif(s.online + s.offline, 0), s.online, s.offline
  from postbell.agents a
  cross join lateral (
    select coalesce(sum(h.seconds) filter (where h.status = 'online'), 0) as online,
           coalesce(sum(h.seconds) filter (where h.status <> 'online'), 0) as offline
    from (
      select p.status,
             extract(epoch from least(p.until, now()) - greatest(p.since, now() - period))::double precision as seconds
      from postbell.presence_history p
      where p.agent_id = a.agent_id and p.until > now() - period
    ) h
  ) s
  where case current_setting('role', true)
          when 'anon' then false
          when 'authenticated' then exists (
            select from postbell.agents me
            where me.agent_id
              = nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' ->> 'agent_id')
          else true
        end
  order by a.agent_id
$function$
;

CREATE OR REPLACE FUNCTION postbell.alert_priority(severity text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select case lower(severity) when 'critical' then 1 when 'high' then 3 when 'low' then 7 else 5 end
$function$
;

CREATE OR REPLACE FUNCTION postbell.alert_topic(severity text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select 'alerts.' || coalesce(nullif(left(regexp_replace(lower(severity), '[^a-z0-9_-]', '_', 'g'), 64), ''), 'other')
$function$
;

CREATE OR REPLACE FUNCTION postbell.announce_access()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if tg_op = 'DELETE'
     or (old.agent_id, old.enabled, old.role, old.token_hash, old.token_hash_previous, old.token_previous_until)
        is distinct from
        (new.agent_id, new.enabled, new.role, new.token_hash, new.token_hash_previous, new.token_previous_until) then
    -- Without a payload, so that a transaction notifies once, however many agents it changes.
    perform pg_notify('postbell_access', '');
  end if;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.announce_alerts()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  senders text[];
  topics text[];
  payloads jsonb[];
  priorities integer[];
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so nobody is told of the alert: run `postbell migrate`';
    return null;
  end if;
  insert into postbell.escalations (alert_id)
  select i.alert_id from inserted i where coalesce(i.status, 'active') = 'active'
  on conflict (alert_id) do nothing;
  select array_agg(coalesce(i.agent_id, '(unknown)')::text), array_agg(postbell.alert_topic(i.severity)),
         array_agg(to_jsonb(i)), array_agg(postbell.alert_priority(i.severity))
    into senders, topics, payloads, priorities
  from inserted i where coalesce(i.status, 'active') = 'active';
  if senders is null then
    return null;
  end if;
  begin
    perform postbell.send_alerts(tg_table_schema, senders, topics, payloads, priorities);
  exception
    when serialization_failure or deadlock_detected or lock_not_available then
      raise;
    when others then
      -- An adopted table of messages may be narrower than that of alerts, or a trigger of the user's refuse it.
      raise warning 'postbell: the alert is stored, but agent_messages does not take its message: %', sqlerrm;
  end;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.announce_grants()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform pg_notify('postbell_access', '');
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.announce_resolved()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so nobody is told that the alert is resolved: run `postbell migrate`';
    return null;
  end if;
  if exists (select from postbell.subscriptions s
             where s.pattern = any (postbell.topic_patterns('alerts.resolved'))) then
    perform postbell.send_alerts(tg_table_schema, array[coalesce(new.agent_id, '(unknown)')::text],
                                 array['alerts.resolved'], array[to_jsonb(new)],
                                 array[postbell.alert_priority(new.severity)]);
  end if;
  return null;
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'postbell: the alert is resolved, but agent_messages does not take its message: %', sqlerrm;
    return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.arm(broker uuid, sleeps boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  -- Others see it at once; and a crash of the server ends the broker's connection anyway.
  perform set_config('synchronous_commit', 'off', true);
  -- One at a time until the commit: whoever comes next counts what this one wrote.
  perform pg_advisory_xact_lock(hashtextextended('postbell.bell', 0));
  perform setval('postbell.bell', coalesce(
    (select ceil(extract(epoch from max(lease_until)))::bigint
     from postbell.brokers
     where case when broker_id = broker then sleeps else armed end and lease_until > clock_timestamp()), 0));
  update postbell.brokers set armed = sleeps where broker_id = broker;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.await_router()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  began timestamptz := clock_timestamp();
begin
  while clock_timestamp() < began + interval '1 second' and exists (
    select from postbell.router r
    cross join lateral (
      select from postbell.messages m
      where m.left_txid >= pg_snapshot_xmax(r.routed) and m.left_txid < pg_snapshot_xmax(pg_current_snapshot())
        and m.left_txid <> pg_current_xact_id() and m.left_at < began
      union all
      select from postbell.messages m
      where m.left_txid = any (array(select pg_snapshot_xip(r.routed))) and m.left_txid <> pg_current_xact_id()
      limit 1) m
    where r.only_row and r.broker_id is not null)
  loop
    perform pg_sleep(0.002);
  end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.expire_each(at_most bigint, grace_ms bigint, OUT expired bigint)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare id uuid; box text; why text; is_locked boolean := false; is_aside boolean;
begin
  set constraints all immediate;
  expired := 0;
  for id in
    select f from postbell.found_readable(format(
      'select m.message_id from agent_messages m
       where m.expires_at between $1 and $2 and m.message_id between $3 and $4
         and m.expires_at < now() - %s * interval ''1 millisecond'' and coalesce(m.status, ''pending'') = ''pending''
         and not exists (select from postbell.set_aside s where s.message_id = m.message_id)
       limit %s for no key update skip locked', grace_ms, at_most), clock_timestamp() + interval '2 seconds') f
    limit at_most
  loop
    is_aside := false;
    begin
      delete from postbell.deliveries d where d.message_id = id and d.state <> 'dead';
      why := postbell.write_outcome(id, 'failed', 'expired before it was delivered');
      if why is not null then
        select coalesce(t.to_agent_id, 'group:' || t.to_group, '*') into box from agent_messages t where t.message_id = id;
        is_aside := true;
        if is_locked then
          raise lock_not_available;
        end if;
        perform postbell.put_aside(id, null, box, 'expired', 'failed', 'expired before it was delivered', why,
                                   interval '30 seconds');
      end if;
      expired := expired + 1;
    exception when others or assert_failure then
      -- Left for the next time.
      is_locked := is_locked or is_aside and sqlstate = '55P03';
    end;
  end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.follow(id uuid, moved boolean, set_back boolean)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  m record;
  waits boolean;
  gone bigint := 0;
  again bigint := 0;
begin
  select x.status, postbell.inbox_of(x.to_agent_id, x.to_group) as inbox into m
  from postbell.messages x where x.message_id = id;
  if not found then
    if postbell.may_hide() then
      return 0;
    end if;
    delete from postbell.deliveries d where d.message_id = id;
    delete from postbell.broadcasts b where b.message_id = id;
    return 0;
  end if;
  waits := coalesce(m.status, 'pending') = 'pending';
  if not waits and m.status <> 'delivered' then
    -- It has ended, in whatever word. A dead letter is told as failed: it stays. A message to many stays with its other
    -- recipients: the row does not say who ended it.
    delete from postbell.deliveries d where d.message_id = id and m.inbox is not null and d.state <> 'dead';
    return 0;
  end if;
  if moved then
    -- It begins anew, also where some of those it was for had handled it, or given it up.
    delete from postbell.deliveries d where d.message_id = id;
    get diagnostics gone = row_count;
    delete from postbell.broadcasts b where b.message_id = id;
    if waits then
      return postbell.route_again(array[id]);
    end if;
    -- A poller has it, and hands it on: who it is for now gets it, if anybody was to get it.
    if gone > 0 and m.inbox is not null then
      insert into postbell.deliveries (message_id, inbox, priority, ordering_key)
      select id, m.inbox, least(greatest(coalesce(x.priority, 5), 1), 10),
             case when octet_length(x.ordering_key) > 200 then md5(x.ordering_key) else x.ordering_key end
      from postbell.messages x where x.message_id = id;
      return 1;
    end if;
    return 0;
  end if;
  if not waits then
    return 0;
  end if;
  if set_back then
    -- As a redrive, which does not count what failed before.
    update postbell.deliveries d
    set state = 'ready', dead_at = null, attempt = 0, last_error = null, txid = pg_current_xact_id()
    where d.message_id = id and d.state = 'dead';
    get diagnostics again = row_count;
    -- To many: all of them again, unless some have not ended with it yet.
    if not exists (select from postbell.deliveries d where d.message_id = id) then
      delete from postbell.broadcasts b where b.message_id = id;
    end if;
  end if;
  return again + postbell.route_again(array[id]);
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.found_readable(query text, until timestamp with time zone, from_us bigint DEFAULT 0, to_us bigint DEFAULT '253402300799999999'::bigint, digits text DEFAULT ''::text)
 RETURNS SETOF uuid
 LANGUAGE plpgsql
AS $function$
declare
  ids uuid[];
  middle constant bigint := from_us + (to_us - from_us) / 2;
  drawn constant integer := floor(random() * 16);
begin
  if clock_timestamp() >= until then
    return;
  end if;
  begin
    execute format('select array(%s)', query) into ids
    using case when from_us = 0 then '-infinity' else 'epoch'::timestamptz + from_us * interval '1 microsecond' end,
          case when to_us = 253402300799999999 then 'infinity' else 'epoch'::timestamptz + to_us * interval '1 microsecond' end,
          rpad(digits, 32, '0')::uuid, rpad(digits, 32, 'f')::uuid;
    return query select unnest(ids);
    return;
  exception when others or assert_failure then
    -- One of them cannot be read, or more: in smaller pieces.
  end;
  if from_us = 0 and to_us = 253402300799999999 then
    -- Fails where the query does without any row: that is no row's fault.
    execute format('select array(%s)', query) using 'infinity'::timestamptz, '-infinity'::timestamptz,
            rpad('', 32, 'f')::uuid, rpad('', 32, '0')::uuid;
  end if;
  if from_us < to_us then
    if drawn % 2 = 0 then
      return query select postbell.found_readable(query, until, from_us, middle, digits);
    end if;
    return query select postbell.found_readable(query, until, middle + 1, to_us, digits);
    if drawn % 2 = 1 then
      return query select postbell.found_readable(query, until, from_us, middle, digits);
    end if;
  elsif length(digits) < 32 then
    for digit in drawn .. drawn + 15 loop
      return query select postbell.found_readable(query, until, from_us, to_us, digits || to_hex(digit % 16));
    end loop;
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.give_routing(me uuid, my_epoch bigint, is_over boolean)
 RETURNS boolean
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  with gone as (
    update postbell.router
    set broker_id = case when not is_over then '00000000-0000-0000-0000-000000000000'::uuid end,
        routed = case when is_over then pg_current_snapshot() else routed end
    where only_row and broker_id = me and epoch = my_epoch
    returning 1
  ), forgotten as (
    delete from postbell.self_routed where is_over and exists (select from gone)
  )
  select exists (select from gone)
$function$
;

CREATE OR REPLACE FUNCTION postbell.inbox_of(to_agent text, to_group text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select coalesce(case when starts_with(to_agent, 'group:') then 'agent:' || to_agent else to_agent end, 'group:' || to_group)
$function$
;

CREATE OR REPLACE FUNCTION postbell.insert_messages(ids uuid[], senders text[], recipients text[], types text[], payloads text[], priorities integer[], delays_ms bigint[], ttls_ms bigint[], dedupe_keys text[], correlations text[], headers text[], topics text[], environments text[], in_groups text[], instances text[], ordering_keys text[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare columns text; expressions text;
begin
  select string_agg(quote_ident(c.name), ', ' order by c.n), string_agg(c.expression, ', ' order by c.n)
  into strict columns, expressions
  from (values (1, 'message_id', 'p.id'),
           (2, 'from_agent_id', 'p.sender'),
           (3, 'to_agent_id', 'p.recipient'),
           (4, 'message_type', 'p.message_type'),
           (5, 'payload', 'p.payload::jsonb'),
           (6, 'priority', 'p.priority'),
           (7, 'status', '''pending'''),
           (8, 'deliver_at', 'now() + p.delay_ms * interval ''1 millisecond'''),
           (9, 'expires_at', 'now() + p.ttl_ms * interval ''1 millisecond'''),
           (10, 'dedupe_key', 'p.dedupe_key'),
           (11, 'correlation_id', 'p.correlation_id'),
           (12, 'headers', 'p.headers::jsonb'),
           (13, 'topic', 'p.topic'),
           (14, 'to_environment', 'p.environment'),
           (15, 'to_group', 'p.in_group'),
           (16, 'to_instance', 'p.instance'),
           (17, 'ordering_key', 'p.ordering_key'))
    as c (n, name, expression)
  where c.name not in ('status', 'priority')
     or not exists (select from pg_attribute a
                    where a.attrelid = 'agent_messages'::regclass and a.attname = c.name
                      and (a.attgenerated <> '' or a.attidentity = 'a'));
  execute format(
    'insert into agent_messages (%s) select %s
     from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
          with ordinality as p (id, sender, recipient, message_type, payload, priority, delay_ms, ttl_ms, dedupe_key,
                                correlation_id, headers, topic, environment, in_group, instance, ordering_key, n)
     order by p.n', columns, expressions)
  using ids, senders, recipients, types, payloads, priorities, delays_ms, ttls_ms, dedupe_keys,
        correlations, headers, topics, environments, in_groups, instances, ordering_keys;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.is_left(id xid8)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select id is not null and exists (
    select from postbell.router r
    where r.only_row and r.broker_id is not null and not pg_visible_in_snapshot(id, r.routed)
      and (id = pg_current_xact_id_if_assigned() or id < pg_snapshot_xmax(pg_current_snapshot())))
$function$
;

CREATE OR REPLACE FUNCTION postbell.is_readable(id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
AS $function$
begin
  perform length(concat(t.from_agent_id, t.to_agent_id, t.message_type, t.topic, t.to_group, t.to_environment, t.status,
                        t.error_message))
  from agent_messages t where t.message_id = id;
  return true;
exception when others or assert_failure then
  return false;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.is_unrouted(id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  return not exists (select from postbell.set_aside s where s.message_id = id);
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.keep_known()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare told uuid;
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the history of presence is not kept: run `postbell migrate`';
    return null;
  end if;
  if tg_op = 'INSERT' then
    insert into postbell.presence_history (agent_id, status)
    values (new.agent_id, case when new.status = 'offline' then 'offline' else 'online' end)
    on conflict (agent_id) where until = 'infinity' do nothing;
    return null;
  end if;
  update postbell.presence_history h set until = now()
  where h.agent_id = old.agent_id and h.until = 'infinity'
  returning h.alert_id into told;
  if told is not null then
    perform postbell.resolve_alert(tg_table_schema, told);
  end if;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.keep_presence()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare told uuid;
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the history of presence is not kept: run `postbell migrate`';
    return null;
  end if;
  update postbell.presence_history h set until = now()
  where h.agent_id = new.agent_id and h.until = 'infinity'
  returning h.alert_id into told;
  insert into postbell.presence_history (agent_id, status, reason)
  values (new.agent_id, case when new.status = 'offline' then 'offline' else 'online' end,
          case when new.status = 'offline' and current_setting('postbell.broker', true) = 'on'
               then new.offline_reason end)
  on conflict (agent_id) where until = 'infinity' do nothing;
  if told is not null then
    perform postbell.resolve_alert(tg_table_schema, told);
  end if;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.leave_messages()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  until bigint := pg_sequence_last_value(to_regclass('postbell.routed'));
  here bigint;
  leaves boolean := false;
  before text := current_setting('postbell.left', true);
begin
  if before = '2' then
    return null;
  end if;
  if until > 0 and until + 2000 >= floor(date_part('epoch', clock_timestamp()) * 1000) and to_regclass('postbell.intact') is not null then
    -- The transaction has its id before it reads the sequence: a router that stops waits for the transactions that it then sees.
    perform pg_current_xact_id();
    until := pg_sequence_last_value('postbell.routed'::regclass);
    here := floor(date_part('epoch', clock_timestamp()) * 1000);
    leaves := until > here or until > 0 and until + 2000 >= here and postbell.shows_left();
  end if;
  if not leaves then
    if before = '1' then
      perform set_config('postbell.left', '0', true);
    end if;
    return null;
  end if;
  if before is distinct from '1' then
    perform set_config('postbell.left', '1', true);
  end if;
  -- Counted from the first statement of the transaction that leaves: the server counts a session's rows over many.
  if coalesce(before, '') = '' then
    perform set_config('postbell.left_to', (pg_stat_get_xact_tuples_inserted(tg_relid) + 100)::text, true);
  end if;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.left_until(me uuid, my_epoch bigint, leave_ms bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform from postbell.router r where r.only_row and r.broker_id = me and r.epoch = my_epoch for update;
  if found then
    perform setval('postbell.routed', case when leave_ms >= 0 and not postbell.may_hide() then
      floor(date_part('epoch', clock_timestamp()) * 1000)::bigint + leave_ms else 0 end);
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.look_at_all()
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  -- Before anything is read: what is touched meanwhile is looked at again.
  found_marks text := postbell.trigger_marks();
  ids uuid[];
  id uuid;
  made bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('postbell.look', 0)) then
    return null;
  end if;
  begin
    delete from postbell.deliveries d where not exists (select from postbell.messages m where m.message_id = d.message_id)
    and not postbell.may_hide();
    delete from postbell.deliveries d using postbell.messages m
    where m.message_id = d.message_id and d.state <> 'dead' and (m.to_agent_id is not null or m.to_group is not null)
      and (m.status not in ('pending', 'delivered')
           -- Readdressed.
           or d.inbox <> postbell.inbox_of(m.to_agent_id, m.to_group));
  exception when others or assert_failure then
    -- One of their messages cannot be read, or more: delivery by delivery, without these. A table or a column that is missing
    -- is no message's fault.
    perform m.status, m.to_agent_id, m.to_group from postbell.messages m where false;
    for id in select distinct d.message_id from postbell.deliveries d loop
      begin
        delete from postbell.deliveries d
        where d.message_id = id and not exists (
          select from postbell.messages m
          where m.message_id = id
            and (d.state = 'dead' or m.to_agent_id is null and m.to_group is null
                 or coalesce(m.status, 'pending') in ('pending', 'delivered')
                    and d.inbox = postbell.inbox_of(m.to_agent_id, m.to_group)));
      exception when others or assert_failure then null;
      end;
    end loop;
  end;
  -- Held: by whoever changes it, who routes it then, or by a poller. The next look finds what is left.
  ids := array(select postbell.found_readable(
    'select m.message_id from postbell.messages m
     where (m.created_at between $1 and $2 or m.created_at is null and $1 = ''-infinity'')
       and m.message_id between $3 and $4
       and coalesce(m.status, ''pending'') = ''pending'' and (m.expires_at is null or m.expires_at > now())
       and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
       and not exists (select from postbell.set_aside s where s.message_id = m.message_id)
       and not exists (select from postbell.broadcasts b where b.message_id = m.message_id
                         and m.to_agent_id is null and m.to_group is null)
     for no key update skip locked', clock_timestamp() + interval '5 minutes'));
  made := postbell.route_again(ids);
  insert into postbell.looked (marks) values (found_marks)
  on conflict (only_row) do update set marks = excluded.marks, at = now();
  if made > 0 then
    perform pg_notify('postbell', '');
  end if;
  return made;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.mark_each(ids uuid[], OUT refused bigint, OUT why text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
declare m record; said text; id uuid;
begin
  set constraints all immediate;
  refused := 0;
  foreach id in array ids loop
    select * into m from postbell.take_message(id);
    said := m.why;
    if said is null and m.is_free and coalesce(m.status, 'pending') = 'pending' then
      said := postbell.write_outcome(id, 'delivered', null);
    end if;
    if said is not null then
      refused := refused + 1; why := said;
    end if;
  end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.may_hide()
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select exists (
    select from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
    join pg_class c on c.oid = d.refobjid and c.relrowsecurity
    join pg_class v on v.oid = r.ev_class
    join pg_roles o on o.oid = v.relowner
    where r.ev_class = to_regclass('postbell.messages') and not (o.rolsuper or o.rolbypassrls)
      and (c.relforcerowsecurity or not pg_has_role(o.oid, c.relowner, 'usage')))
$function$
;

CREATE OR REPLACE FUNCTION postbell.may_use(asked_kind text, asked text, agent text, agent_role text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  is_named boolean;
begin
  select bool_or(g.agent_id = agent) into is_named
  from postbell.grants g
  where g.kind = asked_kind and (g.name = asked or right(g.name, 1) = '*' and starts_with(asked, left(g.name, -1)));
  if is_named is not null then
    return is_named;
  end if;
  return coalesce(
    (select case asked_kind when 'group' then l.may_take_groups else l.may_lock end
     from postbell.role_limits l where l.role = any (array[agent_role, 'agent'])
     order by l.role = 'agent' limit 1), true);
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.must_look()
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select marks is distinct from (select l.marks from postbell.looked l)
         or marks ~ '/D( |$)' or marks !~ '\mpostbell_route/' or marks is null
  from postbell.trigger_marks() marks
$function$
;

CREATE OR REPLACE FUNCTION postbell.note_unseen()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the message is not delivered yet: run `postbell migrate`';
    return null;
  end if;
  if tg_op = 'DELETE' then
    insert into postbell.unseen (message_id, moved, set_back) values (old.message_id, false, false);
  elsif tg_op = 'INSERT' then
    if coalesce(new.status, 'pending') = 'pending' then
      insert into postbell.unseen (message_id, moved, set_back) values (new.message_id, false, false);
    end if;
  elsif (old.status, old.to_agent_id, old.to_group, old.topic, old.to_environment)
        is distinct from (new.status, new.to_agent_id, new.to_group, new.topic, new.to_environment) then
    insert into postbell.unseen (message_id, moved, set_back)
    values (new.message_id,
            (old.to_agent_id, old.to_group, old.topic, old.to_environment)
              is distinct from (new.to_agent_id, new.to_group, new.topic, new.to_environment),
            coalesce(new.status, 'pending') = 'pending' and coalesce(old.status, 'pending') <> 'pending');
  end if;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.noted(at_most integer, left_out bigint[])
 RETURNS bigint[]
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select array(select n.noted_id from postbell.unseen n
               where n.noted_id <> all (left_out) and (n.txid is null or not postbell.is_left(n.txid))
               order by n.noted_id limit at_most)
$function$
;

CREATE OR REPLACE FUNCTION postbell.presence_each(op text, brokers uuid[], agents text[], environments text[], capabilities text[], versions text[], reasons text[])
 RETURNS TABLE(agent_id text, became text, why text)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
declare
  columns constant text[] :=
    '{last_heartbeat,updated_at,connected_to,status,offline_reason,environment,capabilities,agent_version}';
  here constant text :=
    'case when $1[1] = any (t.connected_to) then t.connected_to else array_append(t.connected_to, $1[1]) end';
  last constant text := 'cardinality(array_remove(t.connected_to, $1[1])) > 0';
  expressions text[]; statement text; n integer;
  code text; constr text; col text; context text; said text;
  -- Whether set_aside took the last note. Nobody waits for it again where it did not.
  is_noted boolean := true;
begin
  set constraints all immediate;
  expressions := case op
    when 'connected' then array['now()', 'now()', here, '''online''', 'null', 'coalesce($3, t.environment)',
                                'coalesce($4::jsonb, t.capabilities)', 'coalesce($5, t.agent_version)']
    when 'heartbeat' then array[
      'now()', 'now()', here,
      'case when t.status in (''offline'', ''starting'', ''stopping'') then ''online'' else t.status end',
      'case when t.status <> ''offline'' then t.offline_reason end']
    when 'disconnected' then array[
      'now()', 'now()', 'array_remove(t.connected_to, $1[1])',
      format('case when %s then t.status else ''offline'' end', last),
      format('case when %s then t.offline_reason else $6 end', last)]
    when 'silent' then array['t.last_heartbeat', 'now()', 'null', '''offline''', '''silent''']
    else array['t.last_heartbeat', 'now()', 'array(select b from unnest(t.connected_to) b where b <> all ($1))',
               'case when t.connected_to <@ $1 then ''offline'' else t.status end',
               'case when t.connected_to <@ $1 then ''broker_gone'' else t.offline_reason end']
  end;
  for i in 1 .. coalesce(cardinality(agents), 0) loop
    agent_id := agents[i]; became := null; why := null;
    perform from agent_registry r where r.agent_id = agents[i] for no key update skip locked;
    if not found then
      became := case when exists (select from agent_registry r where r.agent_id = agents[i]) then 'held' end;
    else
      for attempt in 1 .. 3 loop
        n := case attempt when 1 then cardinality(expressions) when 2 then 5 else 3 end;
        statement := postbell.update_sql('agent_registry', columns[1:n], expressions[1:n], 't.agent_id = $2');
        begin
          if statement is not null then
            execute statement using brokers, agents[i], environments[i], capabilities[i], versions[i], reasons[i];
          end if;
          became := case when why is not null then 'partly' end;
          exit;
        exception when others or assert_failure then
          get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                                  context = pg_exception_context, said = message_text;
          why := coalesce(why, postbell.refusal('agent_registry', code, constr, col, context, said));
          became := 'refused';
        end;
      end loop;
    end if;
    if why is not null then
      if is_noted then
        is_noted := postbell.put_presence(
          agents[i], case when op in ('connected', 'heartbeat') then 'online' else 'offline' end, why);
      end if;
    end if;
    if became is not null then
      return next;
    end if;
  end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.put_aside(id uuid, delivery bigint, box text, what text, outcome text, error text, why text, wait interval)
 RETURNS void
 LANGUAGE plpgsql
 SET lock_timeout TO '50ms'
AS $function$
begin
  insert into postbell.set_aside as s (message_id, delivery_id, inbox, kind, status, error_message, reason, next_try)
  values (id, delivery, box, what, outcome, error, why, clock_timestamp() + wait)
  on conflict (message_id, inbox) where message_id is not null do update
  set delivery_id = excluded.delivery_id, kind = excluded.kind, status = excluded.status,
      error_message = excluded.error_message, reason = excluded.reason, next_try = excluded.next_try, dropped_at = null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.put_presence(agent text, outcome text, why text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET lock_timeout TO '50ms'
AS $function$
begin
  insert into postbell.set_aside as s (inbox, kind, status, reason, next_try)
  values (agent, 'presence', outcome, why, clock_timestamp())
  on conflict (inbox) where kind = 'presence' do update
  set status = excluded.status, reason = excluded.reason, next_try = excluded.next_try, tries = s.tries + 1;
  return true;
exception when others or assert_failure then
  return false;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.recipients(sender text, topic text, environment text)
 RETURNS SETOF text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if topic is not null then
    return query
      select distinct s.agent_id from postbell.subscriptions s
      where s.pattern = any (postbell.topic_patterns(topic)) and s.agent_id <> sender
        and exists (select from postbell.agents a where a.agent_id = s.agent_id);
  elsif recipients.environment is not null then
    return query
      select a.agent_id::text from postbell.agents a
      where a.environment = recipients.environment and a.agent_id <> sender;
  else
    return query select a.agent_id::text from postbell.agents a where a.agent_id <> sender;
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.refusal(tab text, code text, constr text, col text, context text, said text)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
declare
  fn text := substring(context from '^(?:PL/[a-zA-Z]+|SQL) function "?(?:[^".(]+"?\."?)?([^"(.\s]+)');
  trig text;
begin
  if fn is not null then
    select string_agg(t.tgname, ', ' order by t.tgname) into trig
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where t.tgrelid = to_regclass(tab) and not t.tgisinternal and p.proname = fn;
    return case when trig is null then format('the function %s, which a trigger of %s calls,', fn, tab)
                else format('the trigger %s of %s (function %s)', trig, tab, fn) end
      || format(' refuses the change (SQLSTATE %s%s): let it pass what sessions with the setting postbell.broker = on write',
                code, case when constr <> '' then ', constraint ' || constr else '' end);
  end if;
  return case
    when code = '23514' then format('the constraint %s of %s does not allow it: let it allow the words and texts that Postbell '
                                    'writes', constr, tab)
    when left(code, 2) = '23' then format('the constraint %s of %s is violated (SQLSTATE %s): drop it, or let it allow what '
                                          'Postbell writes', coalesce(nullif(constr, ''), 'not null of ' || col), tab, code)
    when code = '428C9' then format('the column %s of %s is generated and cannot be written', substring(said from '"([^"]+)"'), tab)
    when code in ('42501') then format('the broker''s role may not write %s: grant it the right, or connect as the owner', tab)
    when code = '22001' then format('a text is too long for a column of %s: make the column longer', tab)
    when code = '55P03' then format('another transaction holds what %s needs for it', tab)
    else format('%s does not take it (SQLSTATE %s%s)', tab, code, case when constr <> '' then ', constraint ' || constr else '' end)
  end;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.refuse_hidden()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if exists (select from pg_class c join pg_class v on v.oid = 'postbell.messages'::regclass
             where c.relname = 'agent_messages' and c.relrowsecurity and (c.relforcerowsecurity or c.relowner <> v.relowner))
     and postbell.may_hide() then
    raise exception 'postbell: row level security may hide messages from the router, so triggers route'
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.remove_all_deliveries()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so deliveries of removed messages stay: run `postbell migrate`';
    return null;
  end if;
  delete from postbell.deliveries;
  delete from postbell.set_aside where message_id is not null;
  delete from postbell.broadcasts;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.remove_deliveries()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so deliveries of deleted messages stay: run `postbell migrate`';
    return null;
  end if;
  -- A router may be reading the row as it was. Asked before the deliveries are looked for: a router that is done by then has made them.
  insert into postbell.unseen (message_id, moved, set_back, txid)
  select r.message_id, false, false, r.left_txid from removed r
  where r.left_txid is not null and r.left_txid <> pg_current_xact_id() and postbell.is_left(r.left_txid);
  delete from postbell.deliveries d using removed r where d.message_id = r.message_id;
  delete from postbell.set_aside s using removed r where s.message_id = r.message_id;
  delete from postbell.broadcasts b using removed r where b.message_id = r.message_id;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.remove_each(older_s bigint, at_most bigint, OUT removed bigint)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
declare
  until constant timestamptz := clock_timestamp() + interval '2 seconds';
  id uuid;
begin
  set constraints all immediate;
  removed := 0;
  for id in
    select f from postbell.found_readable(format(
      'select m.message_id from agent_messages m
       where m.created_at between $1 and $2 and m.message_id between $3 and $4
         and m.created_at < now() - %s * interval ''1 second'' and m.status in (''processed'', ''failed'')
         and coalesce(m.processed_at, m.created_at) < now() - %1$s * interval ''1 second''
         and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
       order by m.created_at for update skip locked', older_s), until) f
  loop
    exit when removed >= at_most or clock_timestamp() >= until;
    begin
      delete from agent_messages t where t.message_id = id;
      removed := removed + 1;
    exception when others or assert_failure then null;
    end;
  end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.resolve_alert(tables name, alert uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform pg_catalog.set_config('search_path', postbell.users_path(tables), true);
  begin
    -- An alert that somebody holds, or whose table does not take it, must not keep the agent from being online.
    update postbell.alerts a set status = 'resolved', resolved_at = pg_catalog.now(), resolved_by = 'postbell'
    where a.alert_id operator(pg_catalog.=) (
      select l.alert_id from postbell.alerts l
      where l.alert_id operator(pg_catalog.=) alert
        and (l.status is null or l.status::pg_catalog.text operator(pg_catalog.<>) 'resolved'::pg_catalog.text)
      for no key update skip locked);
  exception when others then
    raise warning 'postbell: the alert of an absence could not be resolved (SQLSTATE %)', sqlstate;
  end;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.retry_aside(ids bigint[], at_most bigint, try_ms integer)
 RETURNS TABLE(aside_id bigint, became text, why text)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  a record; m record; refused text;
  code text; constr text; col text; context text; said text;
begin
  set constraints all immediate;
  for a in
    select * from postbell.set_aside s
    where s.message_id is not null and s.dropped_at is null
      and case when ids is null then s.next_try <= now() else s.aside_id = any (ids) end
    order by s.next_try limit at_most for update skip locked
  loop
    exit when clock_timestamp() >= until;
    begin
      select * into m from postbell.take_message(a.message_id);
      refused := null;
      if m.why is not null then
        became := 'refused'; refused := m.why;
      elsif not m.is_there or (case a.kind
           when 'retry' then m.status is distinct from 'delivered'
           when 'dead' then exists (select from postbell.deliveries d
                                    where d.delivery_id = a.delivery_id and d.state <> 'dead')
           else coalesce(m.status, 'pending') not in ('pending', 'delivered') end)
      then
        became := 'gone';
      elsif not m.is_free then
        became := 'held'; refused := 'another transaction holds the message''s row';
      else
        refused := postbell.write_outcome(a.message_id, a.status, a.error_message);
        became := case when refused is null then 'written' else 'refused' end;
      end if;
      if refused is null then
        delete from postbell.set_aside s where s.aside_id = a.aside_id;
      else
        -- A row that is only held is tried again after a second, one that is refused after an hour at last.
        update postbell.set_aside s
        set reason = refused, tries = s.tries + (became = 'refused')::integer,
            next_try = clock_timestamp() + case when became = 'held' then interval '1 second'
                                                else least(interval '30 seconds' * 2 ^ least(s.tries, 7), interval '1 hour') end
        where s.aside_id = a.aside_id;
      end if;
    exception when others or assert_failure then
      get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                              context = pg_exception_context, said = message_text;
      became := 'refused';
      refused := postbell.refusal('postbell.set_aside', code, constr, col,
                                  regexp_replace(context, '^PL/pgSQL function (postbell\.)?retry_aside\(.*', ''), said);
    end;
    aside_id := a.aside_id; why := refused;
    return next;
  end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.route(me uuid, my_epoch bigint, last_xmax xid8, last_in_progress xid8[], leave_ms bigint, OUT is_router boolean, OUT snapshot pg_snapshot, OUT seen bigint, OUT made bigint)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET jit TO 'off'
AS $function$
begin
  -- A routing that a crash of the server forgets is done again: the row of the router forgets with it.
  perform set_config('synchronous_commit', 'off', true);
  with here as materialized (
    select pg_current_snapshot() as snapshot
  ), arrived as materialized (
    select m.* from postbell.messages m, here h where m.left_txid >= last_xmax and m.left_txid < pg_snapshot_xmax(h.snapshot)
    union all
    select m.* from postbell.messages m where m.left_txid = any (last_in_progress)
  ), fence as materialized (
    -- The row also holds up whoever wants to be the router, until this is committed.
    update postbell.router r set routed = h.snapshot
    from here h
    where r.only_row and r.broker_id = me and r.epoch = my_epoch and exists (select from arrived)
    returning r.epoch
  ), waiting as materialized (
    select a.* from arrived a cross join fence
    where coalesce(a.status, 'pending') = 'pending'
      and not exists (select from postbell.deliveries d where d.message_id = a.message_id offset 0)
      and (not exists (select from postbell.self_routed s where s.txid = a.left_txid offset 0) or postbell.is_unrouted(a.message_id))
  ), routes as (
    insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
    select w.message_id, r.inbox,
           case when w.to_instance is null then least(greatest(coalesce(w.priority, 5), 1), 10) else 0 end,
           case when w.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
           case when w.deliver_at > now() then w.deliver_at end,
           case when octet_length(w.ordering_key) > 200 then md5(w.ordering_key) else w.ordering_key end
    from waiting w
    cross join lateral (
      select coalesce(case when starts_with(w.to_agent_id, 'group:') then 'agent:' || w.to_agent_id else w.to_agent_id end,
                      'group:' || w.to_group) as inbox
      where w.to_agent_id is not null or w.to_group is not null
      union all
      select b.inbox from postbell.route_broadcast(w.message_id, w.from_agent_id, w.topic, w.to_environment) b (inbox)
      where w.to_agent_id is null and w.to_group is null
    ) r
    order by w.left_at, w.left_txid, w.place, r.inbox
    returning 1
  )
  select h.snapshot, (select count(*) from arrived), (select count(*) from routes),
         exists (select from fence) or not exists (select from arrived)
           and exists (select from postbell.router r where r.only_row and r.broker_id = me and r.epoch = my_epoch)
  into snapshot, seen, made, is_router
  from here h;
  perform postbell.left_until(me, my_epoch, leave_ms) where is_router and leave_ms is not null;
  if made > 0 and pg_sequence_last_value('postbell.bell'::regclass) > date_part('epoch', now())
     and pg_notification_queue_usage() < 0.9 then
    perform pg_notify('postbell', '');
  end if;
  perform postbell.refuse_hidden();
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.route_again(ids uuid[])
 RETURNS bigint
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select postbell.route_these(array(
    select m.message_id
    from (select distinct id from unnest(ids) u (id)) i
    cross join lateral (select m.message_id, m.created_at, m.left_txid from postbell.messages m where m.message_id = i.id offset 0) m
    where not postbell.is_left(m.left_txid)
    order by m.created_at, m.message_id))
$function$
;

CREATE OR REPLACE FUNCTION postbell.route_broadcast(id uuid, sender text, topic text, environment text)
 RETURNS SETOF text
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  insert into postbell.broadcasts (message_id) values (id) on conflict do nothing;
  if found then
    return query select r.inbox from postbell.recipients(coalesce(sender, ''), topic, environment) r (inbox)
                 where not starts_with(r.inbox, 'group:');
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.route_messages()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  how text := current_setting('postbell.left', true);
  leaves boolean := false;
begin
  -- Gone with something that is needed here, by a `drop … cascade`: the insert is worth more than its delivery, which
  -- `postbell migrate` makes when it has made the rest anew.
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the message is stored and not delivered yet: run `postbell migrate`';
    return null;
  end if;
  if how = '1' then
    -- Refuses the name of a group's inbox, which the router could not.
    if exists (select from inserted where starts_with(to_agent_id, 'group:')) then
      perform postbell.agent_inbox(to_agent_id) from inserted where starts_with(to_agent_id, 'group:');
    end if;
    -- A row with another transaction than ours, from a dump or by hand, was never left.
    leaves := not exists (select from inserted where left_txid is distinct from pg_current_xact_id());
  end if;
  if not leaves then
    if how in ('0', '1', '2') then
      -- First what others left, then what this transaction left before.
      perform postbell.await_router();
      if how <> '2' then
        perform postbell.route_own();
        perform set_config('postbell.left', '2', true);
      end if;
    end if;
    -- History that is loaded with its status (a restore, an import) is not sent again.
    insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
    select m.message_id,
           coalesce(case when starts_with(m.to_agent_id, 'group:') then postbell.agent_inbox(m.to_agent_id) else m.to_agent_id end,
                    'group:' || m.to_group),
           -- A reply to a process goes into a lane of its own, beside the window of whom it is for.
           case when m.to_instance is null then least(greatest(coalesce(m.priority, 5), 1), 10) else 0 end,
           case when m.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
           case when m.deliver_at > now() then m.deliver_at end,
           case when octet_length(m.ordering_key) > 200 then md5(m.ordering_key) else m.ordering_key end
    from inserted m
    where (m.to_agent_id is not null or m.to_group is not null) and coalesce(m.status, 'pending') = 'pending'
      and m.left_txid is distinct from pg_current_xact_id();

    -- A statement of its own: setting the join up costs every direct message 35,000 instructions, looking 20,000.
    if exists (select from inserted where to_agent_id is null and to_group is null and left_txid is distinct from pg_current_xact_id()) then
      insert into postbell.broadcasts (message_id)
      select m.message_id from inserted m
      where m.to_agent_id is null and m.to_group is null and coalesce(m.status, 'pending') = 'pending'
        and m.left_txid is distinct from pg_current_xact_id()
      on conflict do nothing;
      insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
      select m.message_id, r.inbox, least(greatest(coalesce(m.priority, 5), 1), 10),
             case when m.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
             case when m.deliver_at > now() then m.deliver_at end,
             case when octet_length(m.ordering_key) > 200 then md5(m.ordering_key) else m.ordering_key end
      from inserted m
      cross join lateral postbell.recipients(coalesce(m.from_agent_id, ''), m.topic, m.to_environment) r (inbox)
      where m.to_agent_id is null and m.to_group is null and coalesce(m.status, 'pending') = 'pending'
        and m.left_txid is distinct from pg_current_xact_id()
        and not starts_with(r.inbox, 'group:');
    end if;
  end if;

  -- NOTIFY takes a lock for the whole cluster until the commit is flushed, so ring only when somebody sleeps.
  -- postbell.bell says until when, and what it says is what was set last, whatever our snapshot: our transaction has
  -- had its id since its first row, and a broker that armed later than we look waits for us to end before it sleeps.
  -- A queue of notifications that is nearly full must not stop the insert: without the ring the broker finds the message
  -- in a second at most, and it has left its bell long before.
  if pg_sequence_last_value('postbell.bell'::regclass) > date_part('epoch', now())
     and pg_notification_queue_usage() < 0.9 then
    perform pg_notify('postbell', '');
  end if;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.route_noted(me uuid, my_epoch bigint, last_xmax xid8, last_in_progress xid8[], OUT is_router boolean, OUT snapshot pg_snapshot, OUT seen bigint)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET jit TO 'off'
AS $function$
begin
  with here as materialized (
    select pg_current_snapshot() as snapshot
  ), fence as materialized (
    update postbell.router r set routed = h.snapshot
    from here h where r.only_row and r.broker_id = me and r.epoch = my_epoch
    returning r.epoch
  ), noted as (
    insert into postbell.unseen (message_id, moved, set_back)
    select a.message_id, false, false
    from (select m.message_id, m.left_txid, m.left_at, m.place from postbell.messages m, here h
          where m.left_txid >= last_xmax and m.left_txid < pg_snapshot_xmax(h.snapshot)
          union all
          select m.message_id, m.left_txid, m.left_at, m.place from postbell.messages m where m.left_txid = any (last_in_progress)) a
    cross join fence
    order by a.left_at, a.left_txid, a.place
    returning 1
  )
  select h.snapshot, (select count(*) from noted), exists (select from fence) into snapshot, seen, is_router from here h;
  perform postbell.refuse_hidden();
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.route_own()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  insert into postbell.self_routed (txid) values (pg_current_xact_id()) on conflict do nothing;
  perform postbell.route_these(array(
    select m.message_id from postbell.messages m where m.left_txid = pg_current_xact_id() order by m.left_at, m.place));
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.route_these(ids uuid[])
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  made bigint;
begin
  with waiting as materialized (
    select m.*, i.n
    from (select id, min(n) as n from unnest(ids) with ordinality u (id, n) group by id) i
    cross join lateral (select * from postbell.messages m where m.message_id = i.id offset 0) m
    where coalesce(m.status, 'pending') = 'pending' and (m.expires_at is null or m.expires_at > now())
      and not exists (select from postbell.deliveries d where d.message_id = m.message_id offset 0)
      -- It is over, and the table refuses to say so.
      and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
  ), to_many as (
    insert into postbell.broadcasts (message_id)
    select w.message_id from waiting w where w.to_agent_id is null and w.to_group is null
    on conflict do nothing
    returning message_id
  )
  insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
  select w.message_id, r.inbox,
         case when w.to_instance is null then least(greatest(coalesce(w.priority, 5), 1), 10) else 0 end,
         case when w.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
         case when w.deliver_at > now() then w.deliver_at end,
         case when octet_length(w.ordering_key) > 200 then md5(w.ordering_key) else w.ordering_key end
  from waiting w
  cross join lateral (
    select postbell.inbox_of(w.to_agent_id, w.to_group) as inbox where w.to_agent_id is not null or w.to_group is not null
    union all
    select f.inbox from to_many t cross join lateral postbell.recipients(coalesce(w.from_agent_id, ''), w.topic, w.to_environment) f (inbox)
    where t.message_id = w.message_id and not starts_with(f.inbox, 'group:')
  ) r
  order by w.n, r.inbox;
  get diagnostics made = row_count;
  return made;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.send_alerts(tables name, senders text[], topics text[], payloads jsonb[], priorities integer[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
  perform pg_catalog.set_config('search_path', postbell.users_path(tables), true);
  insert into postbell.outbox (from_agent_id, topic, message_type, payload, priority)
  select a.sender, a.topic, 'alert', a.payload, a.priority
  from rows from (pg_catalog.unnest(senders), pg_catalog.unnest(topics), pg_catalog.unnest(payloads),
                  pg_catalog.unnest(priorities)) a (sender, topic, payload, priority);
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.settle_each(kinds text[], ids bigint[], attempts smallint[], added smallint[], delays_ms bigint[], reasons text[], try_ms integer, untried text)
 RETURNS TABLE(delivery_id bigint, became text, why text)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  d record; m record; outcome text; error text; wait interval;
  -- The table that is at work, to be named where it fails.
  tab text; code text; constr text; col text; context text; said text;
  -- The time of the statement was over at a row: nothing more is tried. `is_locked`: set_aside is, so nobody waits for it again.
  is_over boolean := false; is_locked boolean := false;
begin
  -- A constraint that is deferred would fail at the commit, for all of them.
  set constraints all immediate;
  for i in 1 .. cardinality(ids) loop
    delivery_id := ids[i]; became := 'stale'; why := null;
    if is_over then
      became := 'held';
      return next;
      continue;
    end if;
    begin
      tab := 'postbell.deliveries';
      select w.message_id, w.inbox into d from postbell.deliveries w
      where w.delivery_id = ids[i] and w.attempt = attempts[i] and w.state <> 'dead'
        and (kinds[i] <> 'retry' or w.due_at is null);
      if found then
        -- The message first, as pollers do; nothing is ever waited for. Once the time is over nothing of the user's is run, be it a
        -- policy that is asked while the row is read.
        tab := 'agent_messages';
        if clock_timestamp() < until then
          select * into m from postbell.take_message(d.message_id);
        else
          select true as is_there, true as is_free, null::text as status, null::boolean as is_direct, untried as why into m;
        end if;
        tab := 'postbell.deliveries';
        perform from postbell.deliveries w
        where w.delivery_id = ids[i] and w.attempt = attempts[i] and w.state <> 'dead' for update skip locked;
        became := case when found then 'written' else 'held' end;
      end if;
      if became = 'written' then
        case kinds[i]
          when 'retry' then
            update postbell.deliveries w
            set attempt = w.attempt + added[i], last_error = coalesce(reasons[i], w.last_error), txid = pg_current_xact_id(),
                state = case when delays_ms[i] > 0 then 'scheduled' else 'ready' end::postbell.delivery_state,
                due_at = case when delays_ms[i] > 0 then now() + delays_ms[i] * interval '1 millisecond' end
            where w.delivery_id = ids[i];
          when 'dead' then
            update postbell.deliveries w
            set state = 'dead', dead_at = now(), due_at = null, attempt = w.attempt + added[i], last_error = reasons[i]
            where w.delivery_id = ids[i];
          else
            delete from postbell.deliveries w where w.delivery_id = ids[i];
        end case;
        error := case kinds[i] when 'dead' then reasons[i] when 'expired' then 'expired before it was delivered' end;
        if m.is_direct is null and m.is_there then
          -- The row was not read. A message that nobody else has is as one for one recipient.
          m.is_direct := not exists (select from postbell.deliveries o where o.message_id = d.message_id
                                       and o.delivery_id <> ids[i]);
        end if;
        outcome := case
          when not m.is_there then null
          when kinds[i] = 'ack' and (m.is_direct or not exists (select from postbell.deliveries o
                                                                where o.message_id = d.message_id)) then 'processed'
          when kinds[i] in ('dead', 'expired') and m.is_direct then 'failed'
          when kinds[i] = 'retry' and m.is_direct and (m.status = 'delivered' or m.why is not null) then 'pending' end;
        if outcome is not null then
          wait := interval '1 second';
          tab := 'agent_messages';
          if m.why is not null then
            why := m.why;
          elsif not m.is_free then
            why := 'another transaction holds the message''s row';
          elsif clock_timestamp() >= until then
            why := untried;
          else
            why := postbell.write_outcome(d.message_id, outcome, error);
          end if;
          if m.is_free and why is distinct from untried then
            wait := interval '30 seconds';
          end if;
          if why is not null then
            became := 'aside';
            tab := 'postbell.set_aside';
            if is_locked then
              raise lock_not_available;
            end if;
            perform postbell.put_aside(d.message_id, ids[i], d.inbox, kinds[i], outcome, error, why, wait);
          end if;
        end if;
      end if;
    exception when others or assert_failure or query_canceled then
      get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                              context = pg_exception_context, said = message_text;
      -- The user's row took all of the time: the caller sets all aside untried. Without the right on the deliveries no outcome can be
      -- written, so nothing is gained by writing them one by one.
      if tab = 'agent_messages'
         or tab = 'postbell.deliveries' and code = '42501' and not (has_table_privilege(tab, 'delete') and has_table_privilege(tab, 'update')) then
        raise;
      end if;
      became := 'hurt';
      -- Our own function is no trigger of theirs.
      why := case code
        when '57014' then format('the change of %s takes too long (SQLSTATE 57014): look for a slow trigger, or for a lock', tab)
        else postbell.refusal(tab, code, constr, col,
                              regexp_replace(context, '^PL/pgSQL function (postbell\.)?(put_aside|settle_each)\(.*', ''), said)
      end;
      is_over := code = '57014';
      is_locked := is_locked or tab = 'postbell.set_aside' and code = '55P03';
    end;
    return next;
  end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.settle_polled()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  was text := coalesce(old.status, 'pending');
  becomes text := coalesce(new.status, 'pending');
  moved boolean := (old.to_agent_id, old.to_group, old.topic, old.to_environment)
                   is distinct from (new.to_agent_id, new.to_group, new.topic, new.to_environment);
  taken text;
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the delivery does not follow its message: run `postbell migrate`';
    return null;
  end if;
  -- Left to the router, which may be reading the row as it was: noted, and done once the router is past it. Nobody reads yet what
  -- our own transaction left.
  if new.left_txid is not null and new.left_txid <> pg_current_xact_id() and postbell.is_left(new.left_txid) then
    if moved and becomes in ('pending', 'delivered') then
      raise exception 'postbell: message % cannot be readdressed: it is being routed', new.message_id
        using errcode = 'object_in_use', hint = 'Try again in a second, or insert a new message for the other one.';
    end if;
    insert into postbell.unseen (message_id, moved, set_back, txid)
    values (new.message_id, moved, becomes = 'pending' and was <> 'pending', new.left_txid);
    return null;
  end if;
  if becomes not in ('pending', 'delivered') then
    if was <> becomes then
      delete from postbell.deliveries d
      where d.message_id = new.message_id
        and d.inbox in (postbell.inbox_of(old.to_agent_id, old.to_group), postbell.inbox_of(new.to_agent_id, new.to_group));
    end if;
    if moved then
      delete from postbell.deliveries d
      where d.message_id = new.message_id and d.state <> 'dead' and coalesce(new.to_agent_id, new.to_group) is not null;
    end if;
    return null;
  end if;
  if moved then
    -- A broker that has the inbox may have it in memory, or pushed already: nobody could take it back.
    select d.inbox into taken
    from postbell.deliveries d
    join postbell.leases l on l.inbox = d.inbox
    join postbell.brokers b on b.broker_id = l.broker_id and b.lease_until > clock_timestamp()
    where d.message_id = new.message_id and d.state = 'ready'
    limit 1;
    if found then
      raise exception 'postbell: message % cannot be readdressed: a broker has it for %, which is connected',
                      new.message_id, taken
        using errcode = 'object_in_use',
              hint = 'Insert a new message for the other one. Messages for agents that are not connected can be readdressed.';
    end if;
  end if;
  if postbell.follow(new.message_id, moved, becomes = 'pending' and was <> 'pending') > 0
     and pg_notification_queue_usage() < 0.9 then
    perform pg_notify('postbell', '');
  end if;
  return null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.shows_left()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  r record;
begin
  select pg_snapshot_xmax(s.routed) as xmax, array(select pg_snapshot_xip(s.routed)) as in_progress into r
  from postbell.router s where s.only_row and s.broker_id is not null;
  return found and (
    exists (select from postbell.messages m where m.left_txid >= r.xmax and m.left_txid < pg_snapshot_xmax(pg_current_snapshot()))
    or exists (select from postbell.messages m where m.left_txid = pg_current_xact_id_if_assigned() and m.left_txid >= r.xmax)
    or exists (select from postbell.messages m where m.left_txid = any (r.in_progress)));
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.sweep(at_most integer, OUT took bigint, OUT ready bigint, OUT look boolean)
 RETURNS record
 LANGUAGE sql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select s.took, s.ready, postbell.must_look() from postbell.sweep_these(postbell.noted(at_most, '{}')) s
$function$
;

CREATE OR REPLACE FUNCTION postbell.sweep_each(at_most integer, OUT took bigint, OUT ready bigint, OUT look boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  one record;
  marks text := postbell.trigger_marks();
begin
  -- Fails where a part of the schema is missing: that is no message's fault.
  perform postbell.follow(null, false, false), postbell.route_again('{}');
  took := 0;
  ready := 0;
  -- While somebody keeps the trigger off, every look is needed.
  look := marks is distinct from (select l.marks from postbell.looked l)
          or marks ~ '/D( |$)' or marks !~ '\mpostbell_route/' or marks is null;
  for one in
    select u.message_id, bool_or(u.moved) as moved, bool_or(u.set_back) as set_back, array_agg(u.noted_id) as notes
    from (select n.noted_id, n.message_id, n.moved, n.set_back from postbell.unseen n
          order by n.noted_id limit at_most for update skip locked) u
    group by u.message_id
    order by min(u.noted_id)
  loop
    begin
      perform from postbell.messages m where m.message_id = one.message_id for no key update skip locked;
      if not found and exists (select from postbell.messages m where m.message_id = one.message_id) then
        continue;
      end if;
      ready := ready + postbell.follow(one.message_id, one.moved, one.set_back);
    exception when others or assert_failure then
      update postbell.unseen n set noted_id = default where n.noted_id = any (one.notes);
      continue;
    end;
    delete from postbell.unseen n where n.noted_id = any (one.notes);
    took := took + cardinality(one.notes);
  end loop;
  if ready > 0 then
    perform pg_notify('postbell', '');
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.sweep_these(these bigint[], OUT took bigint, OUT ready bigint)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  one record;
begin
  took := 0;
  ready := 0;
  for one in
    select u.message_id, bool_or(u.moved) as moved, bool_or(u.set_back) as set_back, array_agg(u.noted_id) as notes
    from (select n.noted_id, n.message_id, n.moved, n.set_back from postbell.unseen n
          where n.noted_id = any (these) for update skip locked) u
    group by u.message_id
    order by min(u.noted_id)
  loop
    perform from postbell.messages m where m.message_id = one.message_id for no key update skip locked;
    if not found and exists (select from postbell.messages m where m.message_id = one.message_id) then
      continue;
    end if;
    ready := ready + postbell.follow(one.message_id, one.moved, one.set_back);
    delete from postbell.unseen n where n.noted_id = any (one.notes);
    took := took + cardinality(one.notes);
  end loop;
  if ready > 0 then
    perform pg_notify('postbell', '');
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.take_message(id uuid, OUT is_there boolean, OUT is_free boolean, OUT status text, OUT is_direct boolean, OUT why text)
 RETURNS record
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
declare code text; constr text; col text; context text; said text;
begin
  select t.status, coalesce(t.to_agent_id, t.to_group) is not null into status, is_direct
  from agent_messages t where t.message_id = id for no key update skip locked;
  is_free := found;
  is_there := found;
  if not found then
    select t.status, coalesce(t.to_agent_id, t.to_group) is not null into status, is_direct
    from agent_messages t where t.message_id = id;
    is_there := found;
  end if;
exception when others or assert_failure then
  get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                          context = pg_exception_context, said = message_text;
  why := 'its row cannot be read: ' || postbell.refusal('agent_messages', code, constr, col, context, said);
  is_there := true;
  is_free := true;
  status := null;
  is_direct := null;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.take_routing(me uuid, OUT epoch bigint, OUT routed pg_snapshot)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  was record;
begin
  select r.broker_id, r.epoch, r.routed into was from postbell.router r where r.only_row for update;
  if not found or postbell.may_hide()
     or exists (select from postbell.brokers b
                where b.broker_id = was.broker_id and b.broker_id <> me and b.lease_until > clock_timestamp()) then
    return;
  end if;
  if pg_snapshot_xmax(was.routed) > pg_snapshot_xmax(pg_current_snapshot()) then
    -- Of another cluster's dump, or of transactions that a failover lost: no place to begin at. All messages are looked at instead.
    was.routed := pg_current_snapshot();
    delete from postbell.looked;
  elsif was.broker_id is null then
    -- Nobody was the router: then nothing is left.
    was.routed := pg_current_snapshot();
  end if;
  update postbell.router r set broker_id = me, epoch = was.epoch + 1, routed = was.routed where r.only_row;
  epoch := was.epoch + 1;
  routed := was.routed;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.topic_patterns(topic text)
 RETURNS text[]
 LANGUAGE plpgsql
 IMMUTABLE STRICT
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
  tokens text[] := string_to_array(topic, '.');
  heads text[] := array[''];
  found text[] := array[]::text[];
begin
  for n in 1 .. least(cardinality(tokens), 8) loop
    found := found || array(select head || '>' from unnest(heads) head);
    heads := array(select head || token || '.' from unnest(heads) head, unnest(array[tokens[n], '*']) token);
  end loop;
  if cardinality(tokens) <= 8 then
    found := found || array(select left(head, -1) from unnest(heads) head);
  end if;
  return found;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.touch_agent(id text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
declare statement constant text := postbell.update_sql('agent_registry', '{updated_at}', '{now()}', 't.agent_id = $1');
begin
  if statement is not null then
    execute statement using id;
  end if;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.trigger_marks()
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select concat(to_regclass('postbell.deliveries')::oid, ' ', string_agg(concat_ws('/', t.tgname, t.oid, t.xmin, t.tgenabled), ' ' order by t.tgname))
  from pg_trigger t
  where t.tgname like 'postbell\_%' and t.tgrelid in (
    select d.refobjid
    from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
    where r.ev_class = to_regclass('postbell.messages'))
$function$
;

CREATE OR REPLACE FUNCTION postbell.update_sql(tab text, columns text[], expressions text[], key text)
 RETURNS text
 LANGUAGE sql
 STABLE
AS $function$
  select format('update %s t set %s where %s', tab,
                string_agg(format('%I = %s', a.attname,
                                  case when a.atttypmod > 4 and a.attname <> 'status' and a.atttypid in ('varchar'::regtype, 'bpchar'::regtype)
                                       then format('left(%s, %s)', w.expression, a.atttypmod - 4) else w.expression end),
                           ', ' order by w.n), key)
  from unnest(columns, expressions) with ordinality as w (name, expression, n)
  join pg_attribute a on a.attrelid = to_regclass(tab) and a.attname = w.name and a.attnum > 0 and not a.attisdropped
                     and a.attgenerated = ''
  having count(*) > 0
$function$
;

CREATE OR REPLACE FUNCTION postbell.users_path(tables name)
 RETURNS text
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
  select coalesce(
           (select nullif(substring(c from 13), '""')
            from pg_db_role_setting s cross join unnest(s.setconfig) c
            where c like 'search\_path=%'
              and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
              and s.setrole in (0, (select oid from pg_roles where rolname = current_user))
            order by s.setrole <> 0 desc, s.setdatabase <> 0 desc
            limit 1),
           '"$user", public')
         || ', ' || quote_ident(tables) || ', pg_temp'
$function$
;

CREATE OR REPLACE FUNCTION postbell.uuid_v7()
 RETURNS uuid
 LANGUAGE plpgsql
 PARALLEL SAFE
AS $function$
begin
  return pg_catalog.encode(
    pg_catalog.set_bit(pg_catalog.set_bit(
      pg_catalog.substring(pg_catalog.int8send(
          (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
             operator(pg_catalog.*) 1000::pg_catalog.float8)::pg_catalog.int8), 3)
        operator(pg_catalog.||) pg_catalog.substring(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), 7),
      52, 1), 53, 1),
    'hex')::pg_catalog.uuid;
end
$function$
;

CREATE OR REPLACE FUNCTION postbell.write_outcome(id uuid, outcome text, error text)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
declare
  statement text;
  n bigint;
  code text; constr text; col text; tab text; context text; said text; why text;
begin
  for attempt in 1 .. 3 loop
    statement := case outcome
      when 'processed' then postbell.update_sql('agent_messages', '{status,processed_at,delivered_at}',
                                                array['$2', 'now()', 'coalesce(t.delivered_at, now())'], 't.message_id = $1')
      when 'failed' then postbell.update_sql('agent_messages', case when attempt < 3 and error is not null
                                                                    then '{status,error_message}' else '{status}' end::text[],
                                             array['$2', '$3'], 't.message_id = $1')
      when 'delivered' then postbell.update_sql('agent_messages', '{status,delivered_at}',
                                                array['$2', 'coalesce(t.delivered_at, now())'], 't.message_id = $1')
      else postbell.update_sql('agent_messages', '{status}', array['$2'], 't.message_id = $1')
    end;
    if statement is null then
      return null;
    end if;
    begin
      execute statement using id, outcome, case when attempt = 1 then error else left(error, 100) end;
      get diagnostics n = row_count;
      if n = 0 then
        return 'a trigger or a rule of agent_messages keeps the change out without an error: let it pass what sessions with the '
               'setting postbell.broker = on write';
      end if;
      -- Looked at afterwards and not by RETURNING, which a rule does not allow and which an AFTER trigger is later than. A status
      -- that the table computes is nobody's to write.
      perform from agent_messages t
      where t.message_id = id and outcome in ('processed', 'failed') and coalesce(t.status, 'pending') in ('pending', 'delivered')
        and exists (select from pg_attribute a where a.attrelid = 'agent_messages'::regclass and a.attname = 'status'
                      and a.attgenerated = '');
      return case when found then 'a trigger of agent_messages puts the status back: let it pass what sessions with the setting '
                                  'postbell.broker = on write' end;
    exception when others or assert_failure then
      get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name, tab = table_name,
                              context = pg_exception_context, said = message_text;
      why := coalesce(why, postbell.refusal('agent_messages', code, constr, col, context, said));
      if outcome <> 'failed' or error is null or code not in ('23514', '22001') then
        return why;
      end if;
    end;
  end loop;
  return why;
end
$function$
;

CREATE TRIGGER postbell_access AFTER DELETE OR UPDATE OF agent_id, enabled, role, token_hash, token_hash_previous, token_previous_until ON public.agent_registry FOR EACH ROW EXECUTE FUNCTION postbell.announce_access();

CREATE TRIGGER postbell_alerts AFTER INSERT ON public.agent_alerts REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION postbell.announce_alerts();

CREATE TRIGGER postbell_known AFTER INSERT OR DELETE ON public.agent_registry FOR EACH ROW EXECUTE FUNCTION postbell.keep_known();

CREATE TRIGGER postbell_leave BEFORE INSERT ON public.agent_messages FOR EACH STATEMENT EXECUTE FUNCTION postbell.leave_messages();

CREATE TRIGGER postbell_poller AFTER UPDATE ON public.agent_messages FOR EACH ROW WHEN (((current_setting('postbell.broker'::text, true) IS DISTINCT FROM 'on'::text) AND ((old.status IS DISTINCT FROM new.status) OR ((((old.to_agent_id IS DISTINCT FROM new.to_agent_id) OR (old.to_group IS DISTINCT FROM new.to_group)) OR (old.topic IS DISTINCT FROM new.topic)) OR (old.to_environment IS DISTINCT FROM new.to_environment))))) EXECUTE FUNCTION postbell.settle_polled();

CREATE TRIGGER postbell_presence AFTER UPDATE OF status ON public.agent_registry FOR EACH ROW WHEN (((new.status = 'offline'::text) IS DISTINCT FROM (old.status = 'offline'::text))) EXECUTE FUNCTION postbell.keep_presence();

CREATE TRIGGER postbell_removed AFTER DELETE ON public.agent_messages REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION postbell.remove_deliveries();

CREATE TRIGGER postbell_resolved AFTER UPDATE OF status ON public.agent_alerts FOR EACH ROW WHEN (((new.status = 'resolved'::text) AND (old.status IS DISTINCT FROM new.status))) EXECUTE FUNCTION postbell.announce_resolved();

CREATE TRIGGER postbell_route AFTER INSERT ON public.agent_messages REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION postbell.route_messages();

CREATE TRIGGER postbell_truncated AFTER TRUNCATE ON public.agent_messages FOR EACH STATEMENT EXECUTE FUNCTION postbell.remove_all_deliveries();

CREATE TRIGGER postbell_unseen AFTER INSERT OR DELETE OR UPDATE ON public.agent_messages FOR EACH ROW EXECUTE FUNCTION postbell.note_unseen();
