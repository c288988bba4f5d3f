-- This broker sleeps ($2 true: ring) or tails on its own clock ($2 false: do not). $1 broker. Commits without
-- waiting for the disk: others see it at once, and a crash of the server ends the broker's connection anyway.
-- Called by src/postgres/tail.rs. Uses brokers' primary key; a HOT update.
update postbell.brokers set armed = $2 where broker_id = $1
