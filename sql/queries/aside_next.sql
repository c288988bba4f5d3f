-- In how many milliseconds the next row of set_aside is due; null: none is.
-- Called by src/store/aside.rs. Uses set_aside_due.
select ceil(extract(epoch from min(next_try) - now()) * 1000)::bigint as next_ms
from postbell.set_aside where dropped_at is null and message_id is not null and next_try > '-infinity'
