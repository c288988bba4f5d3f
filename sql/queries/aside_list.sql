-- What is set aside, the newest first: $1 only of this inbox, $2 only of this kind, $3 only numbers before this one, $4 how
-- many. Called by src/store/aside.rs. Walks the primary key backwards, since an operator asks.
select aside_id, message_id, inbox, kind, status, reason, since, tries
from postbell.set_aside
where dropped_at is null and ($1::text is null or inbox = $1) and ($2::text is null or kind = $2)
  and aside_id < coalesce($3::bigint, 9223372036854775807)
order by aside_id desc
limit $4::bigint
