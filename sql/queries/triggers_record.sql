-- Records a trigger in the transaction that installs it.
-- Called by src/store/migrate/triggers.rs. Uses the primary key.
-- $1 name text
-- $2 sha256 text: of its text
insert into postbell.triggers (name, sha256) values ($1, $2)
on conflict (name) do update set sha256 = excluded.sha256, applied_at = now()
