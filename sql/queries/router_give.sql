-- Gives the router's place back; if what was left may not all be routed, another broker takes over at once.
-- Called by src/store/router.rs. Uses the primary key of router.
-- $1 broker uuid
-- $2 epoch bigint
-- $3 is_over boolean: nothing is left
select postbell.give_routing($1::uuid, $2::bigint, $3::boolean) as given
