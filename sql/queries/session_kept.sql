-- The settings that decide what the names in a statement mean, and which rights it has. A user's trigger can change them for the whole
-- session (`set role`, `set_config('search_path', '', false)`), and the change outlives the trigger's statement.
-- Called by src/store/connection.rs when a connection is opened, and after an error that a changed setting would explain.
select concat_ws(' ', current_user, current_setting('search_path'), current_setting('row_security'))
