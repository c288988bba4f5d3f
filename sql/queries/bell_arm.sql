-- Says whether this broker sleeps, so that producers ring for it, or tails on its own clock, so that they do not. The commit
-- does not wait for the disk: others see the flag at once, and a crash of the server ends the broker's connection anyway.
-- Called by src/store/tail.rs. Uses brokers' primary key, in a HOT update, and reads its few rows.
-- $1 broker uuid
-- $2 armed boolean
select postbell.arm($1, $2)
