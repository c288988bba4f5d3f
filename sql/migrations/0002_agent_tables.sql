-- The user's tables: created where they are missing, otherwise adopted by adding columns. Whether a table of
-- that name can be adopted was checked before (sql/queries/adoption_faults.sql). Unqualified names: the
-- session's search_path says which schema.

do $$
begin
  if to_regclass('agent_registry') is not null then
    return;
  end if;
  create table agent_registry (
    agent_id       text primary key,
    agent_name     text not null,
    agent_type     text not null,
    environment    text not null,
    status         text not null
      check (status in ('online', 'offline', 'busy', 'error', 'starting', 'stopping')),
    last_heartbeat timestamptz,
    capabilities   jsonb default '{}',
    endpoint_url   text,
    metadata       jsonb default '{}',
    created_at     timestamptz default now(),
    updated_at     timestamptz default now()
  );
  -- On Supabase the API roles hold rights on every table here: closed until a policy opens it. An adopted table
  -- keeps what it has, since its pollers live by that.
  alter table agent_registry enable row level security;
end $$;
alter table agent_registry
  add column if not exists role text not null default 'agent' check (role in ('agent', 'orchestrator')),
  add column if not exists enabled boolean not null default true,
  -- SHA-256 of the token; the token itself is never stored. NULL: this agent cannot connect to the broker.
  add column if not exists token_hash bytea check (octet_length(token_hash) = 32),
  add column if not exists token_set_at timestamptz;

do $$
begin
  if to_regclass('agent_messages') is not null then
    return;
  end if;
  create table agent_messages (
    message_id    uuid primary key default postbell.uuid_v7(),
    from_agent_id text not null,
    to_agent_id   text,
    message_type  text not null
      check (message_type in ('command', 'query', 'response', 'alert', 'heartbeat', 'data')),
    payload       jsonb not null,
    priority      integer default 5 check (priority between 1 and 10),
    status        text default 'pending' check (status in ('pending', 'delivered', 'processed', 'failed')),
    created_at    timestamptz default now(),
    delivered_at  timestamptz,
    processed_at  timestamptz,
    error_message text
  -- No index on what an ack changes (status, processed_at), and room on the page: the mark stays a HOT update.
  ) with (fillfactor = 85);
  create index agent_messages_created_at on agent_messages (created_at);
  alter table agent_messages enable row level security;
end $$;
alter table agent_messages
  add column if not exists correlation_id text,
  add column if not exists dedupe_key text,
  add column if not exists deliver_at timestamptz,
  add column if not exists expires_at timestamptz,
  add column if not exists headers jsonb;
create unique index if not exists agent_messages_dedupe
  on agent_messages (from_agent_id, dedupe_key) where dedupe_key is not null;
create index if not exists agent_messages_expires
  on agent_messages (expires_at) where expires_at is not null;

-- What the triggers may know of the agents, bound to the table in whatever schema it lives, so that their
-- functions need no search_path of the user's.
create view postbell.agents as
  select agent_id, environment, role from agent_registry where enabled is not false;
