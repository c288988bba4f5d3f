-- How many rows of each kind are set aside, since when, and one reason of each kind.
-- Called by src/store/aside.rs for the metrics, the page and the doctor. Reads set_aside up to the bound.
-- $1 count_max bigint: of all kinds together
select kind, count(*) as n, extract(epoch from now() - min(since))::float8 as since_seconds, min(reason) as reason, count(distinct reason) as reasons, min(inbox) as inbox
from (select kind, since, reason, inbox from postbell.set_aside where dropped_at is null limit $1::bigint) s
group by kind
