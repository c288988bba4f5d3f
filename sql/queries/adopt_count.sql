-- How many messages wait, and how many a poller took but never finished (it may have crashed, or handled them:
-- they are not sent again). Called by src/store/adopt.rs for `migrate --dry-run`, before the columns that
-- adoption adds exist. Reads agent_messages whole.
select count(*) filter (where coalesce(status, 'pending') = 'pending') as waiting,
       count(*) filter (where status = 'delivered') as taken
from agent_messages
