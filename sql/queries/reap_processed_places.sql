-- How many places for rows the table of messages has, and how many of them a page has, for reap_processed_part.sql: a row takes 28
-- bytes at least. No row is read.
-- Called by src/store/reap/older.rs. Walks no index.
select pg_relation_size('agent_messages') / size * (size / 28 + 1) as places, size / 28 + 1 as a_page
from (select current_setting('block_size')::bigint as size) as b
