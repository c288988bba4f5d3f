-- Writes agents offline that are silent too long: those that keep their row alive by SQL, and those that a broker left behind in
-- a way that nothing else noticed. Says how many.
-- Called by src/store/presence.rs, every quarter of a minute. Reads agent_registry whole: an index on a column that each
-- heartbeat changes would cost more.
-- $1 silent_seconds bigint
update agent_registry r
set status = 'offline', offline_reason = 'silent', connected_to = null, updated_at = now()
where r.agent_id = any (array(
  select l.agent_id from agent_registry l
  where l.status <> 'offline'
    and coalesce(l.last_heartbeat, l.updated_at, '-infinity') < now() - $1::bigint * interval '1 second'
  for no key update skip locked))
