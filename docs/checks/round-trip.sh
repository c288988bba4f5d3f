#!/usr/bin/env bash
# A message through the mesh and back, by an agent that exists for this once: passes, or says at which hop it did not.
#
# Needs DATABASE_URL, to register the agent, and POSTBELL_URL, the broker (with POSTBELL_CA or POSTBELL_PIN where it has a
# certificate of its own). COUNT round trips, 5 if it is not said, each WITHIN a time, 5s: the broker's promise.
set -euo pipefail
agent=${PROBE:-postbell-round-trip}

# A run that was killed may have left it behind: its token is replaced then.
POSTBELL_TOKEN=$(POSTBELL_LOG=error postbell agent add "$agent" --environment probe --type probe 2> /dev/null \
  || POSTBELL_LOG=error postbell agent rotate "$agent")
export POSTBELL_TOKEN
if [ -n "${GITHUB_ACTIONS:-}" ]; then echo "::add-mask::$POSTBELL_TOKEN"; fi
trap 'POSTBELL_LOG=error postbell agent remove "$agent" --force > /dev/null' EXIT

postbell ping --agent "$agent" --count "${COUNT:-5}" --within "${WITHIN:-5s}"
