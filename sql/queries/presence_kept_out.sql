-- Sets presence aside that agent_registry keeps out without an error, so that an operator hears of it. Gives the agents and why: the
-- triggers and rules that could have kept the change out, by name.
-- Called by src/store/presence.rs. Reads the catalogs; postbell.put_presence uses set_aside_presence.
-- $1 agents text[]
-- $2 status text: the status that was to be written
with suspects as (
  -- Triggers that run before the row of an UPDATE is written: bits 1, 2 and 16 of tgtype.
  select 'the trigger ' || t.tgname as name from pg_trigger t
  where t.tgrelid = to_regclass('agent_registry') and not t.tgisinternal and t.tgname !~ '^postbell_'
    and t.tgenabled in ('O', 'A') and t.tgtype & 19 = 19
  union all
  select 'the rule ' || w.rulename from pg_rewrite w
  where w.ev_class = to_regclass('agent_registry') and w.ev_type = '2' and w.ev_enabled in ('O', 'A')
), why as (
  select case count(*) when 0 then 'something of agent_registry, which is no trigger of an UPDATE,'
                       when 1 then min(name) || ' of agent_registry'
                       else 'one of these of agent_registry (' || string_agg(name, ', ' order by name) || ')' end
         || ' keeps the change out without an error: let it pass what sessions with the setting postbell.broker = on write' as why
  from suspects
)
select a.agent_id, w.why, postbell.put_presence(a.agent_id, $2::text, w.why) as is_noted
from unnest($1::text[]) as a (agent_id) cross join why w
