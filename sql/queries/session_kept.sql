-- The settings of a connection that decide what a statement means, how long it waits, which rights it has and how it is planned. A
-- user's trigger can change them for the whole session (`set role`, `set_config('lock_timeout', '0', false)`), and the change outlives
-- the trigger's transaction. So this is compared after each one. Every setting of session.sql, session_planner.sql and
-- settle_session.sql is here; the last ones only newer servers have. Beside them the time of a statement.
-- Called by src/store/connection/kept.rs, which takes the settings' names from here. Reads no table.
select concat_ws(E'\n', current_user, current_setting('search_path'), current_setting('row_security'),
         current_setting('session_replication_role'), current_setting('postbell.broker'), current_setting('statement_timeout'),
         current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'),
         current_setting('default_transaction_isolation'), current_setting('default_transaction_read_only'),
         current_setting('default_transaction_deferrable'), current_setting('synchronous_commit'), current_setting('timezone'),
         current_setting('datestyle'), current_setting('intervalstyle'), current_setting('extra_float_digits'),
         current_setting('bytea_output'), current_setting('quote_all_identifiers'),
         current_setting('standard_conforming_strings'), current_setting('backslash_quote'), current_setting('array_nulls'),
         current_setting('transform_null_equals'), current_setting('exit_on_error'), current_setting('client_min_messages'),
         current_setting('client_encoding'), current_setting('jit'), current_setting('plan_cache_mode'),
         current_setting('random_page_cost'), current_setting('enable_indexscan'), current_setting('enable_indexonlyscan'),
         current_setting('enable_nestloop'), current_setting('enable_material'), current_setting('enable_seqscan'),
         current_setting('enable_hashjoin'), current_setting('enable_mergejoin'), current_setting('enable_bitmapscan'),
         current_setting('enable_sort'), current_setting('enable_memoize', true), current_setting('idle_session_timeout', true),
         current_setting('transaction_timeout', true), current_setting('restrict_nonsystem_relation_kind', true)) as settings,
       (1000 * extract(epoch from current_setting('statement_timeout')::interval))::bigint as statement_ms
