-- How many messages wait and have no delivery; and how many were noted as written unseen.
-- Called by src/store/doctor/house.rs. Reads agent_messages until it has found so many, or whole.
-- $1 count_max bigint: of each
select (select count(*) from (
          select from agent_messages m
          where coalesce(m.status, 'pending') = 'pending' and (m.expires_at is null or m.expires_at > now())
            and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
            and (coalesce(m.to_agent_id, m.to_group) is not null
                 or not exists (select from postbell.broadcasts b where b.message_id = m.message_id))
          limit $1::bigint) few) as unrouted,
       (select count(*) from (select from postbell.unseen limit $1::bigint) noted) as noted
