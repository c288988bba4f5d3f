-- The dead letters of each inbox, and how many deliveries wait for their time.
-- Called by src/store/status.rs while somebody watches. Reads deliveries_dead and deliveries_due.
select inbox, count(*) as n from postbell.deliveries where state = 'dead' group by inbox
union all
select null, count(*) from postbell.deliveries where state = 'scheduled'
