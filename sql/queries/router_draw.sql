-- Draws a transaction's id, in a transaction of its own: all who read what was written before that have a lower one, since a producer
-- draws its id before it reads.
-- Called by src/store/router.rs after router_write.sql.
select pg_current_xact_id()::text as drawn
