-- The router finds what is left by its transaction. Only messages that were left are in this index, and no acknowledgement touches it.
create index concurrently if not exists agent_messages_left on agent_messages (left_txid) where left_txid is not null;
