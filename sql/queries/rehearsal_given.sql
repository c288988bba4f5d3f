-- Says to rehearsal.sql what to try in the transaction that is open.
-- Called by src/store/rehearsal.rs. Writes a setting.
-- $1 given text: JSON
select set_config('postbell.rehearsal', $1::text, true)
