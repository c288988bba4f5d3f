-- Rotation with an overlap, and what each role may use.

-- The token before the last rotation, and until when it is accepted besides the new one. NULL: not at all.
alter table agent_registry
  add column if not exists token_hash_previous bytea check (octet_length(token_hash_previous) = 32),
  add column if not exists token_previous_until timestamptz;

-- What one agent of a role may use of a broker, over all its connections there; read at each hello. An agent whose role
-- has no row here is held to the row of 'agent'. NULL, or no row at all: no limit.
create table postbell.role_limits (
  role                   text primary key,
  -- Messages that it sends, in the long run and at once after a pause.
  sends_per_second       bigint check (sends_per_second > 0),
  sends_burst            bigint check (sends_burst > 0),
  -- The same in bytes of payload and headers.
  send_bytes_per_second  bigint check (send_bytes_per_second > 0),
  send_bytes_burst       bigint check (send_bytes_burst > 0),
  -- Messages that it has sent and was not answered for.
  publishes_outstanding  bigint check (publishes_outstanding > 0),
  connections            bigint check (connections > 0),
  check ((sends_per_second is null) = (sends_burst is null)),
  check ((send_bytes_per_second is null) = (send_bytes_burst is null))
);
revoke all on postbell.role_limits from public;

-- Far above what an agent at work needs, and about half of what a small broker can insert: one that runs wild leaves room.
insert into postbell.role_limits values
  ('agent',        20000, 40000, 33554432, 67108864, 4096, 256),
  ('orchestrator', 20000, 40000, 33554432, 67108864, 4096, 256);
