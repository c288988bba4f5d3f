-- What sql/queries/rehearsal.sql found in the transaction that is open, as JSON. Called by src/store/rehearsal.rs.
select current_setting('postbell.rehearsed')
