-- Triggers and rules on tables of the schema postbell that are not Postbell's: a sentence's worth of each.
-- Called by src/store/drift.rs. Reads the catalogs only.
select 'the trigger ' || t.tgname || ' on postbell.' || c.relname || ' (function ' || t.tgfoid::regproc || ')' as what
from pg_class c
join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal
join pg_proc p on p.oid = t.tgfoid and p.pronamespace <> c.relnamespace
where c.relnamespace = to_regnamespace('postbell')
union all
select 'the rule ' || r.rulename || ' on postbell.' || c.relname
from pg_class c
join pg_rewrite r on r.ev_class = c.oid and r.rulename <> '_RETURN'
where c.relnamespace = to_regnamespace('postbell')
order by 1
