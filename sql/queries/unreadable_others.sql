-- Some messages that wait and are none of these, to compare with.
-- Called by src/store/payload/blamed.rs. Uses deliveries' primary key, from its end.
-- $1 messages uuid[]
select coalesce(array_agg(message_id), '{}') as messages
from (
  select message_id from postbell.deliveries where message_id <> all ($1::uuid[]) order by delivery_id desc limit 3
) d
