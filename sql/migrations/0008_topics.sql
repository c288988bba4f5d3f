-- Addresses beside an agent's name: a topic, to those that subscribed, and an environment, to every agent there.

alter table agent_messages
  add column if not exists topic text,
  add column if not exists to_environment text;

-- Who wants which topics, for as long as the agent is registered, connected or not. Bounded for each agent by what adds
-- a row (sql/queries/subscribe.sql).
create table postbell.subscriptions (
  -- Tokens between dots; `*` is any one token, a last `>` is one or more.
  pattern    text not null,
  agent_id   text not null,
  created_at timestamptz not null default now(),
  primary key (pattern, agent_id)
);
create index subscriptions_agent on postbell.subscriptions (agent_id);
revoke all on postbell.subscriptions from public;

-- Every pattern that a topic matches, so that its subscribers are found by the primary key, however many subscriptions
-- there are: each token as it is or `*`, and each beginning before `>`. That is 2^(n+1) - 1 patterns for n tokens; beyond
-- eight tokens only those that end in `>` are made, which is what subscribe.sql allows.
create function postbell.topic_patterns(topic text) returns text[]
language plpgsql immutable strict set search_path = pg_catalog, pg_temp
as $$
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
$$;
revoke all on function postbell.topic_patterns(text) from public;

-- Whom a message without to_agent_id is for: those that subscribed to its topic, every agent of its environment, or all;
-- never its sender, and only who is registered and enabled.
create function postbell.recipients(sender text, topic text, environment text) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
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
$$;
revoke all on function postbell.recipients(text, text, text) from public;
