-- The row that the hello of a link is checked against. Rust compares the hashes, in constant time.
-- Called by src/store/lease.rs. Uses brokers' primary key.
-- $1 broker uuid: the one that links
select token_hash from postbell.brokers where broker_id = $1 and lease_until > clock_timestamp()
