-- Whether messages can be read: the statement fails where one of them cannot. Else it says how much text they have beside payload and
-- headers; null where none of them is there. Reads the columns that tail.sql and refill.sql read of each.
-- Called by src/store/payload/blamed.rs. Uses agent_messages' primary key.
-- $1 messages uuid[]
-- $2 names_bytes_max integer: of a message's names
select sum(length(concat(
         m.created_at, m.expires_at, m.priority, pg_column_size(m.payload), pg_column_size(m.headers),
         case when coalesce(octet_length(m.from_agent_id::text), 0) + coalesce(octet_length(m.message_type::text), 0)
                   + coalesce(octet_length(m.correlation_id::text), 0) + coalesce(octet_length(m.topic::text), 0)
                   + coalesce(octet_length(m.to_group::text), 0) + coalesce(octet_length(m.to_instance::text), 0) <= $2::int
              then concat(m.from_agent_id, m.message_type, m.correlation_id, m.topic, m.to_group, m.to_instance) end)))
from unnest($1::uuid[]) as k (message_id)
cross join lateral (select * from agent_messages m where m.message_id = k.message_id offset 0) m
