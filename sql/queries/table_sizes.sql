-- How large tables are: their bytes, and their rows as the last ANALYZE or VACUUM counted them, in proportion to their pages now;
-- null where nobody has counted yet. A partitioned table has what its parts have. Tables that are not there are left out.
-- Called by src/store/migrate/holds.rs. Reads the catalogs.
-- $1 tables text[]
select w.name, sum(pg_relation_size(c.oid))::bigint as bytes,
       case when bool_and(pg_relation_size(c.oid) = 0 or c.relpages > 0 and c.reltuples >= 0)
            then sum(case when c.relpages > 0
                          then c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::bigint) else 0 end)
       end::bigint as rows
from unnest($1::text[]) w (name)
cross join lateral (select to_regclass(w.name)::oid union select t.relid from pg_partition_tree(to_regclass(w.name)) t where t.isleaf) u (oid)
join pg_class c on c.oid = u.oid and c.relkind in ('r', 'p')
group by w.name
order by w.name
