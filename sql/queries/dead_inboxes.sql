-- The inboxes that have dead letters.
-- Called by src/store/dead/batch.rs, for an operator who wants all. Uses deliveries_dead.
select distinct inbox from postbell.deliveries where state = 'dead'
