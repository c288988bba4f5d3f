-- The live brokers, and what each says of its duties that stand still.
-- Called by src/store/doctor/mesh.rs. Reads brokers whole, which has a row a broker.
select name, standstill from postbell.brokers
where lease_until > clock_timestamp()
order by name
