-- The numbers of dead letters that one statement was asked for and did not take as a whole.
-- Called by src/store/dead/batch.rs. Uses deliveries_dead from the delivery on, or the primary key.
-- $1 deliveries bigint[]: only these; null for all of the inbox
-- $2 inbox text: only of this one; null for any, where deliveries are named
-- $3 after bigint
-- $4 rows_max bigint
(select delivery_id from postbell.deliveries
 where state = 'dead' and inbox = any (array[$2::text]) and delivery_id > $3::bigint and $1::bigint[] is null
 order by inbox, delivery_id
 limit $4::bigint)
union all
(select delivery_id from postbell.deliveries
 where delivery_id = any ($1) and delivery_id > $3 and state::text = 'dead' and ($2 is null or inbox = $2)
 order by delivery_id
 limit $4)
