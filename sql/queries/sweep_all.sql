-- Looks at all messages, since a trigger was touched or something was mended; null: another broker does.
-- Called by src/store/sweep.rs and src/store/migrate/mend.rs on a connection of its own, with the settings of a long statement.
-- Reads agent_messages and deliveries whole.
select postbell.look_at_all() as ready
