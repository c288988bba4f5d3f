-- The server's clock, in Unix seconds. Called by src/store/doctor/server.rs, which times it.
select extract(epoch from clock_timestamp())::float8 as now
