-- How many messages wait and have no delivery, each with why: `unrouted` are in the table itself, and `some` names the first of
-- them; `inherited` are in tables that inherit from it; `looks`: a broker looks at all messages, since a trigger was touched.
-- `noted` were written unseen. `left_alone`: left to a router that does not live, the first of them `left_since`. `unseen`: deliveries
-- whose messages this role cannot see.
-- Called by src/store/doctor/house.rs. Reads agent_messages until it has found so many, or whole, and the deliveries that are
-- scheduled.
-- $1 count_max bigint: of each
-- $2 unseen text: `last_error` of deliveries that were looked at in vain
with waiting as (
  select m.message_id, m.tableoid = 'agent_messages'::regclass as is_own from agent_messages m
  where coalesce(m.status, 'pending') = 'pending' and (m.expires_at is null or m.expires_at > now())
    and not postbell.is_left(m.left_txid)
    and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
    -- Such a message is over, and the table does not take that.
    and not exists (select from postbell.set_aside s where s.message_id = m.message_id)
    and (coalesce(m.to_agent_id, m.to_group) is not null
         or not exists (select from postbell.broadcasts b where b.message_id = m.message_id))
    and not exists (select from postbell.unseen n where n.message_id = m.message_id)
  limit $1::bigint
)
select (select count(*) from waiting where is_own) as unrouted,
       array(select message_id::text from waiting where is_own limit 3) as some,
       (select count(*) from waiting where not is_own) as inherited,
       postbell.trigger_marks() is distinct from (select marks from postbell.looked) as looks,
       (select count(*) from (select from postbell.unseen limit $1) noted) as noted,
       l.left_alone, l.left_since,
       (select count(*) from (select from postbell.deliveries d
                              where d.state = 'scheduled' and d.last_error = $2::text
                                and not exists (select from agent_messages m where m.message_id = d.message_id)
                              limit $1) u) as unseen
from (
  select coalesce(sum(messages) filter (where not router_lives), 0)::bigint as left_alone,
         to_char(min(since) filter (where not router_lives) at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as left_since
  from postbell.unrouted
) l
