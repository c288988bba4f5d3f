-- The record of migrations, which the first of them needs. One statement; does nothing where it exists already,
-- and needs no right to create schemas where an administrator made this one. Called by src/store/migrate.rs.
do $$
begin
  if to_regnamespace('postbell') is null then
    create schema postbell;
  end if;
  create table if not exists postbell.migrations (
    version    integer primary key,
    name       text not null,
    sha256     text not null,
    applied_at timestamptz not null default now(),
    by         text not null default current_user
  );
end $$
