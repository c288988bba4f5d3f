-- What migrations are recorded in. Called by src/postgres/migrate.rs before it looks what is there.
create schema if not exists postbell;
create table if not exists postbell.migrations (
  version    integer primary key,
  name       text not null,
  sha256     text not null,
  applied_at timestamptz not null default now(),
  applied_by text not null default current_user
);
