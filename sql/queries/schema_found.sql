-- The facts about what is installed, from the catalogs alone, so that no right on anything is needed: the server's version, the
-- user's schema (null: it does not exist), the schema that Postbell was installed for (by the tables that its view of the agents
-- reads), and which tables exist. has_parts: there is more of Postbell than the record of migrations (a schema of that name with
-- other tables is somebody else's).
-- Called by src/store/migrate/state.rs. Uses the catalogs' indexes.
select current_setting('server_version_num')::integer as server_version_num,
       current_setting('server_version') as server_version, current_setting('server_encoding') as encoding,
       u.nspname::text as schema,
       (select n.nspname::text
        from pg_class v
        join pg_rewrite r on r.ev_class = v.oid
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                        and d.refclassid = 'pg_class'::regclass
        join pg_class t on t.oid = d.refobjid and t.oid <> v.oid
        join pg_namespace n on n.oid = t.relnamespace
        where v.relnamespace = p.oid and v.relname = 'agents' and v.relkind = 'v'
        limit 1) as installed_for,
       exists (select from pg_class where relnamespace = p.oid and relname = 'migrations') as has_migrations,
       exists (select from pg_class where relnamespace = p.oid and relname = 'triggers') as has_triggers,
       exists (select from pg_class where relnamespace = p.oid and relkind = 'r' and relname = 'triggers') as has_parts,
       array(select relname::text from pg_class
             where relnamespace = u.oid
               and relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics')) as tables
from (select) one
left join pg_namespace p on p.nspname = 'postbell'
-- pg_temp is last in the search_path: it is what current_schema() says where the user's schema does not exist.
left join pg_namespace u on u.nspname = current_schema() and u.nspname !~ '^pg_temp'
