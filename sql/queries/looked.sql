-- Notes that all messages were looked at with the triggers as they are now.
-- Called by src/store/migrate/triggers.rs in the transaction that made them. Uses looked's one key.
-- $1 anew boolean: note it also where it was noted before
insert into postbell.looked (marks)
select postbell.trigger_marks() where $1::boolean or not exists (select from postbell.looked)
on conflict (only_row) do update set marks = excluded.marks, at = now()
