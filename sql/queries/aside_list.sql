-- The rows that are set aside, the newest first.
-- Called by src/store/aside.rs for an operator. Walks the primary key backwards.
-- $1 inbox text: only of this one; null for any
-- $2 kind text: only of this one; null for any
-- $3 before bigint: only lower numbers; null for all
-- $4 rows_max bigint
select aside_id, message_id, inbox, kind, status, reason, since, tries
from postbell.set_aside
where dropped_at is null and ($1::text is null or inbox = $1) and ($2::text is null or kind = $2)
  and aside_id < coalesce($3::bigint, 9223372036854775807)
order by aside_id desc
limit $4::bigint
