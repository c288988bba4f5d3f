-- Where the collecting agent is with each source: written in the transaction that writes the rows.
create table if not exists postbell_agents.collecting_state (
  source      text primary key,
  -- etag, last_modified, cursor, page, row, signature, not_before: see collecting/state.py.
  state       jsonb not null,
  -- When a run over the source was finished last; null while the first is under way.
  finished_at timestamptz,
  updated_at  timestamptz not null default now()
);
