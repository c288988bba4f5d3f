-- How many deliveries an inbox holds, dead letters among them. $1 name. Called by src/postgres/agents.rs. Uses
-- deliveries_lane for the ready ones; the others are few.
select count(*) from postbell.deliveries where inbox = $1
