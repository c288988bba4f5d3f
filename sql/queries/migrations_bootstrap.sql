-- Makes the record of migrations, which the first of them needs. One statement; does nothing where the record exists already,
-- and needs no right to create schemas where an administrator made this one.
-- Called by src/store/migrate.rs. Reads the catalogs.
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
