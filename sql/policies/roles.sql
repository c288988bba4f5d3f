-- The roles that Supabase has, for a plain Postgres with PostgREST before it: nobody logs in as one of them, an
-- authenticator that may log in becomes one for each request (`grant anon, authenticated, service_role to …`).
-- Run on purpose: `postbell policies apply --create-roles`, or psql as a superuser (for bypassrls).
do $$
begin
  if to_regrole('anon') is null then
    create role anon nologin noinherit;
  end if;
  if to_regrole('authenticated') is null then
    create role authenticated nologin noinherit;
  end if;
  -- Row level security is not for this one: whoever holds its key may read and write every row.
  if to_regrole('service_role') is null then
    create role service_role nologin noinherit bypassrls;
  end if;
end $$;
