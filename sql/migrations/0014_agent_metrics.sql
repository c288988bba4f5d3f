-- What agents measure: the mesh's table, created where it is missing, otherwise left as it is; the broker only reads it. That
-- it can was checked before (sql/queries/adoption_faults.sql). Nobody but its owner removes rows.

do $$
begin
  if to_regclass('agent_metrics') is null then
    create table agent_metrics (
      metric_id    uuid primary key default postbell.uuid_v7(),
      agent_id     text not null,
      metric_type  text not null,
      metric_name  text not null,
      metric_value numeric,
      metric_unit  text,
      metadata     jsonb default '{}',
      recorded_at  timestamptz default now()
    );
    alter table agent_metrics enable row level security;
  end if;
  -- The broker reads the newest rows alone, whatever the history holds. An index of the mesh's own that begins with the time
  -- is as good. Building one holds writers up for as long as it takes to read the table.
  if not exists (select from pg_index i
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                 join pg_class c on c.oid = i.indexrelid
                 join pg_am m on m.oid = c.relam and m.amname = 'btree'
                 where i.indrelid = 'agent_metrics'::regclass and i.indisvalid and i.indpred is null
                   and a.attname = 'recorded_at') then
    create index agent_metrics_recorded_at on agent_metrics (recorded_at);
  end if;
end $$;
