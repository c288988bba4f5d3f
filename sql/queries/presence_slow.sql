-- Notes an agent whose row of the registry took too long to be written, as postbell.presence_each notes one that is refused.
-- Called by src/store/presence/search.rs. The function uses set_aside_presence.
-- $1 agent text
-- $2 status text: that was to be written
-- $3 reason text
select postbell.put_presence($1::text, $2::text, $3::text)
