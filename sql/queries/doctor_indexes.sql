-- Indexes on agent_messages that hold, or whose condition reads, a column that settling changes: each of them turns the mark
-- into a new entry in every index of the table (no HOT update). BRIN is left out: from 16 on it does not.
-- Called by src/store/doctor/mesh.rs. Reads the catalogs only: pg_depend knows the columns of a condition too.
select i.indexrelid::regclass::text as name,
       array_agg(distinct a.attname::text order by a.attname::text) as columns
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_am am on am.oid = c.relam and am.amname <> 'brin'
join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
                and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid
join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where i.indrelid = to_regclass('agent_messages')
  and a.attname in ('status', 'delivered_at', 'processed_at', 'error_message')
group by i.indexrelid
order by 1
