-- Spans of the history of presence that ended more than $1 seconds ago, at most $2 at once. Called by src/store/reap.rs.
-- Uses presence_history_until.
delete from postbell.presence_history
where span_id = any (array(select span_id from postbell.presence_history
                           where until < now() - $1::bigint * interval '1 second' and until < 'infinity'
                           order by until limit $2::bigint))
