-- Messages of agents are stored where the statement for many cannot store them: a rule of the user's is on agent_messages, or the
-- table computes its status or its priority.

-- Inserts messages, without ON CONFLICT and RETURNING, neither of which a table with a rule allows. Columns that the table
-- computes are left out if they say only how a message is treated; a message without one of the others would be another message,
-- and is refused. The caller has left out messages whose dedupe key is known.
create function postbell.insert_messages(ids uuid[], senders text[], recipients text[], types text[], payloads text[],
                                         priorities integer[], delays_ms bigint[], ttls_ms bigint[], dedupe_keys text[],
                                         correlations text[], headers text[], topics text[], environments text[], in_groups
                                         text[], instances text[], ordering_keys text[])
returns void
language plpgsql as $$
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
$$;

do $$
declare f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p
           where p.pronamespace = 'postbell'::regnamespace and p.proname = 'insert_messages' loop
    execute format('revoke all on function %s from public', f);
  end loop;
end $$;
