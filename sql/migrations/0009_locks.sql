-- One of several does a task: a lock for a time, with a number that grows, so that what a late holder still writes can be
-- told from what its successor writes.
create sequence postbell.fences;

create table postbell.locks (
  key      text primary key,
  fence    bigint not null default nextval('postbell.fences'),
  agent_id text not null,
  -- The holder's until then, unless it says so again.
  until    timestamptz not null,
  -- The task is done: nobody gets the lock any more, until retention forgets it.
  done_at  timestamptz
);
create index locks_until on postbell.locks (until);
revoke all on postbell.locks from public;
revoke all on postbell.fences from public;
