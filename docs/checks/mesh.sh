#!/usr/bin/env bash
# The mesh from end to end, as a checklist: each line passes or fails, and the last says how many. docs/testing-the-mesh.md.
#
# Needs DATABASE_URL and POSTBELL_URL (with POSTBELL_CA or POSTBELL_PIN where the broker has a certificate of its own), and
# the commands postbell, psql, jq and curl. HEALTH_URL is where the broker serves health and metrics, if that is not
# this machine: https://broker.example.com. The checks' agents have names and an environment of their own and are removed in the end;
# messages of others are not touched, and no other agent is sent any.
set -uo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
run=check-$$
export POSTBELL_LOG=error HEALTH_URL=${HEALTH_URL:-http://${POSTBELL_HTTP:-127.0.0.1:9440}}
failed=0 passed=0
: "${DATABASE_URL:?the database, as for postbell migrate}" "${POSTBELL_URL:?the broker, as tcp://host:7440}"

# A check is a function; what it says is shown where it fails.
check() {
  local what=$1 status
  shift
  # Not as a condition: there `set -e` would mean nothing.
  ( set -e; "$@" ) > "$work/said" 2>&1
  status=$?
  if [ "$status" = 0 ]; then
    passed=$((passed + 1))
    printf 'pass  %s\n' "$what"
  else
    failed=$((failed + 1))
    printf 'FAIL  %s\n' "$what"
    sed 's/^/      /' "$work/said"
  fi
}

sql() { psql "$DATABASE_URL" -X -qAt -v ON_ERROR_STOP=1 "$@"; }

# as AGENT COMMAND…: the command with that agent's name and token.
as() {
  local agent=$run-$1
  shift
  POSTBELL_AGENT=$agent POSTBELL_TOKEN=$(cat "$work/$agent") "$@"
}

cleanup() {
  for agent in a b orchestrator; do
    if [ -s "$work/$run-$agent" ]; then
      postbell dead purge --inbox "$run-$agent" > /dev/null 2>&1
      postbell agent remove "$run-$agent" --force > /dev/null 2>&1
    fi
  done
  rm -rf "$work"
}
trap cleanup EXIT

# shellcheck source=docs/checks/mesh-checks.sh
source ./mesh-checks.sh

check "the database is as the broker needs it" database
check "the schema is this version's" schema
check "the broker is ready" ready
check "agents can be registered" register
check "a message goes through the mesh and back in 5 s" round_trip
check "a wrong token is refused" wrong_token
check "plain SQL reaches an agent" from_sql
check "what is urgent comes first" urgent_first
check "a failed attempt is tried again, with its reason" retried
check "what cannot be handled is a dead letter, and comes back by a redrive" dead_letter
check "a message with a dedupe key is stored once" deduplicated
check "a delayed message is not early" delayed
check "an expired message is never delivered" expired
check "a topic reaches who subscribed, also while away" topic
check "to many sends only an orchestrator, and all but the sender have it" to_many
check "of two that start the same task, one does it" once
check "a disabled agent is put out, and may come back" disabled
check "a rotated token is void" rotated
check "no notification was lost" nothing_late

printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
