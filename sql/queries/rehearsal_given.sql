-- What sql/queries/rehearsal.sql is to do, $1 as JSON, for the transaction that is open. Called by src/store/rehearsal.rs.
select set_config('postbell.rehearsal', $1::text, true)
