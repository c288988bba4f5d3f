-- Inboxes that several agents share, replies that go to the process that asked, and messages that are handled in turn.

alter table agent_messages
  -- Instead of to_agent_id: one of those that take from this group. Its inbox is called 'group:' and this name, which
  -- is no agent's.
  add column if not exists to_group text,
  -- Beside to_agent_id: this process of that agent, if it is there.
  add column if not exists to_instance text,
  -- Messages of an inbox with the same key are handled one after the other.
  add column if not exists ordering_key text;

-- A reply to a process is in a lane of its own: the agent that waits for it may have a full window.
comment on column postbell.deliveries.priority is '1 (highest) to 10; 0: a reply to a process';
