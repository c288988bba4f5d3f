-- Schema postbell is the broker's alone: not even service_role looks in. Rights that were granted there once, by hand
-- or by default privileges, are taken back; the functions that the policies call stay (claims.sql).
revoke all on schema postbell from public, anon, authenticated, service_role;
revoke all on all tables in schema postbell from public, anon, authenticated, service_role;
revoke all on all sequences in schema postbell from public, anon, authenticated, service_role;
alter default privileges in schema postbell revoke all on tables from anon, authenticated, service_role;
alter default privileges in schema postbell revoke all on sequences from anon, authenticated, service_role;
alter default privileges in schema postbell revoke all on functions from anon, authenticated, service_role;
