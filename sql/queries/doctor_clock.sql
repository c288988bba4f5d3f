-- The server's clock, in Unix seconds.
-- Called by src/store/doctor/server.rs, which times the statement. Reads nothing.
select extract(epoch from clock_timestamp())::float8 as now
