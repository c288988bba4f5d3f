-- All messages were looked at with the triggers as they are now: where $1, or for the first time. Called by src/store/migrate/triggers.rs in the transaction
-- that made them.
insert into postbell.looked (marks)
select postbell.trigger_marks() where $1::boolean or not exists (select from postbell.looked)
on conflict (only_row) do update set marks = excluded.marks, at = now()
