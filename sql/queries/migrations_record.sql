-- A migration is being applied, in the same transaction: $1 version, $2 name, $3 SHA-256 of its text. The primary
-- key ends a second one that got past the lock. Called by src/store/migrate.rs.
insert into postbell.migrations (version, name, sha256) values ($1, $2, $3)
