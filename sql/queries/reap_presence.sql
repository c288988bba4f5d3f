-- Deletes spans of the history of presence that ended too long ago.
-- Called by src/store/forgetting.rs. Uses presence_history_until.
-- $1 kept_seconds bigint
-- $2 rows_max bigint
-- $3 skipped bigint: so many rows before these took no change
delete from postbell.presence_history
where span_id = any (array(select span_id from postbell.presence_history
                           where until < now() - $1::bigint * interval '1 second' and until < 'infinity'
                           order by until limit $2::bigint offset $3::bigint))
