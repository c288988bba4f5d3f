-- The indexes of migration 0002 on an agent_messages that holds rows already: built while its writers go on, so that the
-- migration finds them by their names. The columns first, as the migration adds them: a moment's lock, and no row is read.
alter table agent_messages
  add column if not exists dedupe_key text,
  add column if not exists expires_at timestamptz;
create unique index concurrently if not exists agent_messages_dedupe
  on agent_messages (from_agent_id, dedupe_key) where dedupe_key is not null;
create index concurrently if not exists agent_messages_expires
  on agent_messages (expires_at) where expires_at is not null;
