-- Does the same as mark_delivered.sql one by one, after that statement was refused. Says how many rows do not take the mark, and
-- why.
-- Called by src/store/settle.rs. Uses agent_messages' primary key.
-- $1 messages uuid[]
select refused, why from postbell.mark_each($1::uuid[])
