-- The tables that inherit from agent_messages, at whatever distance: what is inserted there fires no trigger of ours.
-- Called by src/store/drift.rs. Reads the catalogs only, by pg_inherits_parent_index.
with recursive heirs as (
  select inhrelid as oid from pg_inherits where inhparent = to_regclass('agent_messages')
  union
  select i.inhrelid from heirs h join pg_inherits i on i.inhparent = h.oid
)
select h.oid::regclass::text as name from heirs h order by 1
