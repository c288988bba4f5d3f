-- The agents' latest measurements, the newest first, with times in Unix seconds of the database's clock. At least one row comes,
-- which then has the time alone. Values that no float can hold are left out, and so are rows that claim to be from more than a
-- minute ahead.
-- Called by src/store/agent_metrics.rs, every 15 s. Uses an index that begins with recorded_at.
-- $1 seconds bigint: how far to look back
-- $2 rows_max bigint
select extract(epoch from now())::float8 as now, m.agent_id, m.metric_name, m.value, m.recorded_at
from (select) one
left join lateral (
  select a.agent_id::text, a.metric_name::text,
         case when abs(a.metric_value) < 1e-300 then 0 else a.metric_value end::float8 as value,
         extract(epoch from a.recorded_at)::float8 as recorded_at
  from agent_metrics a
  where a.recorded_at > now() - $1::bigint * interval '1 second' and a.recorded_at <= now() + interval '1 minute'
    and a.metric_value between -1e300 and 1e300 and octet_length(a.agent_id) <= 256 and octet_length(a.metric_name) <= 256
  order by a.recorded_at desc limit $2::bigint
) m on true
