# The commands that everybody needs; `just` lists them. The gate and the tests do without this file.

_list:
    @just --list --unsorted

# The fast half of the gate, before each commit
fast:
    bash .ci/fast

# One area's tests on a real Postgres: just test dead_ops
test area="":
    cargo test -p postbell --test it -- {{ area }}

# The whole gate: 25 minutes on two cores
gate:
    bash .ci/run

# A broker with its own Postgres and two agents; Ctrl-C ends it
demo:
    cargo run -- dev --demo

# Format Rust
fmt:
    cargo fmt --all

# Write sql/schema.sql, sql/needed.json and sql/locks.json anew after a migration
bless:
    POSTBELL_BLESS=1 cargo test -p postbell --test it -- schema_sql_is needed_json_is locks_json_is

# Write the dashboards anew after a change in dashboards/source
dashboards:
    cd dashboards && python3 build.py

# The status page in a browser; pictures are left in tests/page/shots
page:
    cargo build && cd tests/page && npm ci --silent && npm test --silent

# Licences, banned and duplicate crates, sources
deny:
    cargo deny check licenses bans sources

# A fuzz target for a minute: just fuzz session
fuzz target:
    cargo +nightly fuzz run {{ target }} -- -max_total_time=60 -rss_limit_mb=1024 -malloc_limit_mb=64
