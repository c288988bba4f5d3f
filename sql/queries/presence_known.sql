-- The names of all agents, in an order that is another one each time, without a look at the registry, of which one row may not be
-- readable.
-- Called by src/store/presence/sweep.rs, after a statement for all agents failed. Uses presence_history_open.
select array(select agent_id from postbell.presence_history where until = 'infinity' order by random()) as agents
