-- Sets, beside session.sql, what a connection needs that writes to the user's tables. A row that somebody holds is waited for a
-- moment, then its change is set aside. No statement lasts as long as the server lets a deadlock be: a client that waits for one of
-- ours cannot be the deadlock's victim, since ours has ended before the server looks.
-- Called by src/store/settle.rs.
select set_config('lock_timeout', greatest(least(100, setting::int / 4), 1) || 'ms', false),
       set_config('statement_timeout', greatest(least(900, setting::int * 9 / 10), 10) || 'ms', false)
from pg_settings where name = 'deadlock_timeout'
