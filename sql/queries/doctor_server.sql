-- The facts about this server and this session.
-- Called by src/store/doctor/server.rs. Reads the session's own entries.
select current_setting('server_version') as version,
       current_setting('server_version_num')::integer as version_num,
       pg_is_in_recovery() as is_replica,
       current_setting('transaction_read_only')::boolean as is_read_only,
       pg_notification_queue_usage() as queue_usage,
       current_setting('session_replication_role') as replication_role,
       coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as has_tls,
       (select version from pg_stat_ssl where pid = pg_backend_pid()) as tls_version
