-- The findings of rehearsal.sql in the transaction that is open, as JSON.
-- Called by src/store/rehearsal.rs. Reads a setting.
select current_setting('postbell.rehearsed')
