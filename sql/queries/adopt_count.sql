-- How many messages wait, and how many a poller took and never finished. A message that was taken is not sent again: its
-- poller may have crashed, or may have handled it.
-- Called by src/store/adopt.rs for `migrate --dry-run`, before the columns that adoption adds exist. Reads agent_messages whole.
select count(*) filter (where coalesce(status, 'pending') = 'pending') as waiting,
       count(*) filter (where status = 'delivered') as taken
from agent_messages
