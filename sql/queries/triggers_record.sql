-- A trigger is being installed, in the same transaction: $1 its name, $2 SHA-256 of its text.
-- Called by src/store/migrate/triggers.rs. Uses the primary key.
insert into postbell.triggers (name, sha256) values ($1, $2)
on conflict (name) do update set sha256 = excluded.sha256, applied_at = now()
