-- This broker sleeps ($2 true: ring) or tails on its own clock ($2 false: do not). $1 broker. Commits without
-- waiting for the disk: others see it at once, and a crash of the server ends the broker's connection anyway.
-- Called by src/store/tail.rs. Uses brokers' primary key, in a HOT update, and reads its few rows.
select postbell.arm($1, $2)
