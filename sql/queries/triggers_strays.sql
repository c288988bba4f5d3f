-- Removes triggers that call a function of Postbell's and are none of its own: ones that somebody renamed, which would fire
-- beside those that are made anew, and those of a table that was renamed and replaced.
-- Called by src/store/migrate/triggers.rs in the transaction that installs triggers. Reads the catalogs.
do $$
declare
  stray record;
begin
  for stray in
    select t.tgname, t.tgrelid::regclass as on_table
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where p.pronamespace = to_regnamespace('postbell') and not t.tgisinternal
      and (t.tgname not like 'postbell\_%'
           or t.tgrelid is distinct from to_regclass('agent_messages') and t.tgrelid is distinct from to_regclass('agent_registry')
              and t.tgrelid is distinct from to_regclass('agent_alerts'))
  loop
    execute format('drop trigger %I on %s', stray.tgname, stray.on_table);
  end loop;
end $$
