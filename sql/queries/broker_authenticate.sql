-- What the hello of a link is checked against: $1 the broker that links. The hashes are compared in Rust, in constant
-- time. Called by src/store/lease.rs. Uses brokers' primary key.
select token_hash from postbell.brokers where broker_id = $1 and lease_until > clock_timestamp()
