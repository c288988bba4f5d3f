-- The same one by one, after the statement for all was refused: $1 message ids. Says of how many the row takes it not, and
-- why. Called by src/store/settle.rs. Uses agent_messages' primary key.
select refused, why from postbell.mark_each($1::uuid[])
