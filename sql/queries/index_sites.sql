-- Where an index belongs and what is there: its table, after each part of it where it is partitioned. No row: there is no such
-- table. state:
--   missing  nothing has the name
--   there    the index, valid
--   as good  another index serves: it begins with the only column. On a part it is of that column alone, as Postgres asks of an
--            index that it attaches to the table's
--   left     the index, invalid after a CREATE INDEX CONCURRENTLY that was interrupted; or of another table, which had the name
--            of this one before
--   taken    something else has the name: an index on other columns, a table, a view
-- Called by src/store/migrate/concurrently/site.rs. Reads the catalogs.
-- $1 table text
-- $2 index text
-- $3 is_unique boolean
-- $4 definition text: what follows the table's name, `(column) where column is not null`
with wanted as (
  select to_regclass($1::text)::oid as oid, regexp_replace(lower($4::text), '[()\s]', '', 'g') as definition,
         case when not $3::boolean then substring($4::text from '^\(([a-z_]+)\)$') end as only_column
), sites as (
  select c.oid, c.relkind, c.relnamespace, c.oid = w.oid as is_whole,
         case when c.oid = w.oid then $2::text else $2::text || '_' || c.oid end as index_name
  from wanted w
  cross join lateral (select w.oid union select t.relid from pg_partition_tree(w.oid) t where t.isleaf) u (oid)
  join pg_class c on c.oid = u.oid and (c.oid = w.oid or c.relkind = 'r')
), named as (
  select s.oid, x.oid as index_oid, i.indisvalid and i.indisready as is_valid,
         i.indrelid = s.oid as is_here,
         i.indisunique = $3::boolean
           and w.definition = regexp_replace(lower(substring(pg_get_indexdef(x.oid) from ' USING btree (.*)$')), '::[a-z_. ]+(\[\])?|[()\s]', '', 'g')
           as is_ours
  from sites s
  cross join wanted w
  join pg_class x on x.relnamespace = s.relnamespace and x.relname = s.index_name
  left join pg_index i on i.indexrelid = x.oid
)
select s.oid::regclass::text as table_name, s.index_name, s.is_whole, quote_ident(p.nspname) || '.' || quote_ident(s.index_name) as full_name,
       s.relkind = 'p' as is_partitioned, s.relkind = 'r' and pg_relation_size(s.oid) > 0 as has_rows,
       case
         when exists (select from pg_index i
                      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                      join pg_class x on x.oid = i.indexrelid
                      join pg_am m on m.oid = x.relam and m.amname = 'btree'
                      where i.indrelid = s.oid and i.indisvalid and i.indpred is null and a.attname = w.only_column
                        and (s.is_whole or i.indnatts = 1 and not i.indisunique
                                           and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid))) then 'as good'
         when n.index_oid is null then 'missing'
         when n.is_ours is not true then 'taken'
         when n.is_here and n.is_valid then 'there'
         else 'left'
       end as state
from sites s
cross join wanted w
join pg_namespace p on p.oid = s.relnamespace
left join named n on n.oid = s.oid
order by s.is_whole, s.oid
