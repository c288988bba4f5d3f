-- Whether some table of schema postbell holds a row, except the record of migrations and triggers.
-- Called by src/store/migrate/copied.rs. Reads a row of each; through XML, since nobody knows which tables there are.
select coalesce(bool_or(
         (xpath('/row/n/text()', query_to_xml(format('select count(*) as n from (select from %s limit 1) x', c.oid::regclass),
                                               false, true, '')))[1]::text <> '0'), false) as holds
from pg_class c
where c.relnamespace = to_regnamespace('postbell') and c.relkind = 'r'
  and c.relname not in ('migrations', 'triggers', 'looked')
