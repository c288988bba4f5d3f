-- Records a migration in the transaction that applies it. The primary key ends a second one that got past the lock.
-- Called by src/store/migrate/apply.rs. Uses the primary key.
-- $1 version integer
-- $2 name text
-- $3 sha256 text: of its text
insert into postbell.migrations (version, name, sha256) values ($1, $2, $3)
