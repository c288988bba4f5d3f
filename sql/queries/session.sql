-- The settings that every connection makes first. Called by src/store/connection.rs, which also sets the search_path (the
-- user's schema) and the planner (session_planner.sql or session_looking_on.sql), and knows its own statement_timeout.
-- postbell.broker tells the triggers that a status is set by the broker. jit is never worth its start here.
--
-- A database or a role may have other settings, which would give our statements another meaning, the catalogs' texts other words
-- (the doctor would see drift everywhere), or end the session. Each such setting has the server's own value here. Left as they are:
-- where a table is stored and how it is compressed (the user's choice), what the user's functions alone see (plpgsql.extra_errors,
-- plpgsql.check_asserts, default_text_search_config, xmloption, lc_*), and what only a superuser may set.
set default_transaction_isolation = 'read committed';
set default_transaction_read_only = off;
set default_transaction_deferrable = off;
set timezone = 'UTC';
set datestyle = 'ISO, MDY';
set intervalstyle = 'postgres';
set extra_float_digits = 1;
set bytea_output = 'hex';
set quote_all_identifiers = off;
set standard_conforming_strings = on;
set backslash_quote = 'safe_encoding';
set array_nulls = on;
set transform_null_equals = off;
set row_security = on;
set exit_on_error = off;
set client_min_messages = 'warning';
set lock_timeout = 0;
set idle_in_transaction_session_timeout = '30s';
set postbell.broker = 'on';
set jit = off;
-- Only newer servers have these: a connection may idle, a transaction is bounded by its statements, and views can be read.
select set_config(name, case name when 'restrict_nonsystem_relation_kind' then '' else '0' end, false)
from pg_settings where name in ('idle_session_timeout', 'transaction_timeout', 'restrict_nonsystem_relation_kind');
