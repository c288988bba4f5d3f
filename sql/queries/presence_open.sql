-- Takes the lock that writing presence takes, and no row: whether the table can be written at all now.
-- Called by src/store/presence/search.rs. Walks no index.
lock table agent_registry in row exclusive mode
