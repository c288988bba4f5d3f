-- Writes agents offline that are silent too long: those that keep their row alive by SQL, and those that a broker left behind in
-- a way that nothing else noticed. Says how many.
-- Called by src/store/presence/sweep.rs, every quarter of a minute unless the broker is at rest. Reads agent_registry whole: an index on a column that each
-- heartbeat changes would cost more.
-- $1 silent_seconds bigint
-- $2 left_behind_seconds bigint: the same for an agent whose row names brokers, none of which lives
update agent_registry r
set status = 'offline', offline_reason = 'silent', connected_to = null, updated_at = now()
where r.agent_id = any (array(
  select l.agent_id from agent_registry l
  where l.status <> 'offline'
    and coalesce(l.last_heartbeat, l.updated_at, '-infinity') < now() - interval '1 second' * case
      when cardinality(l.connected_to) > 0
           and not exists (select from postbell.brokers b where b.broker_id = any (l.connected_to) offset 0)
      then $2::bigint else $1::bigint end
  for no key update skip locked))
