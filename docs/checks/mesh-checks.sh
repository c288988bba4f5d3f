# The checks of mesh.sh, which sources this file: each function succeeds, or fails at the line that did not hold.
# shellcheck shell=bash disable=SC2154,SC2016

database() { postbell doctor; }

schema() { postbell migrate --status; }

ready() { curl -fsS --max-time 10 "$HEALTH_URL/health/ready"; }

register() {
  local agent
  for agent in a b; do
    postbell agent add "$run-$agent" --environment "$run" > "$work/$run-$agent"
  done
  postbell agent add "$run-orchestrator" --environment "$run" --role orchestrator > "$work/$run-orchestrator"
}

round_trip() { as a postbell ping --count 3 --within 5s; }

wrong_token() {
  if POSTBELL_AGENT=$run-a POSTBELL_TOKEN=pb_wrong postbell ping; then
    echo "it was let in"
    return 1
  fi
}

# insert PRIORITY PAYLOAD: for agent a, as a producer does it.
insert() {
  sql -v to="$run-a" -v priority="$1" -v payload="$2" <<'SQL'
insert into agent_messages (from_agent_id, to_agent_id, message_type, priority, payload)
values ('psql', :'to', 'data', :priority, :'payload') returning message_id;
SQL
}

# take AGENT COUNT: the messages that come, as lines of JSON; fewer where they do not.
take() { as "$1" postbell listen --max "$2" --window 1 --until-idle 10s; }

# comes AGENT FILTER [OPTIONS OF JQ]: a message comes, and is so.
comes() {
  local agent=$1 filter=$2 message
  shift 2
  message=$(take "$agent" 1)
  # Some versions of jq find nothing wrong with an empty message.
  [ -n "$message" ] || { echo "no message came"; return 1; }
  jq -e "$@" "$filter" <<< "$message"
}

from_sql() {
  local id
  id=$(insert 5 '{"n": 1}')
  comes a '.id == $id and .from == "psql" and .payload.n == 1' --arg id "$id"
}

urgent_first() {
  insert 9 '"later"'
  insert 1 '"now"'
  [ "$(take a 2 | jq -r .payload | paste -sd ' ' -)" = "now later" ]
}

retried() {
  local id
  id=$(as b postbell send --to "$run-a" '"fails once"')
  as a postbell listen --failures-ok --max 1 --until-idle 10s --exec 'echo "no such county" >&2; exit 3'
  comes a '.id == $id and .attempt == 2' --arg id "$id"
}

dead_letter() {
  local id number
  # Too large for a line: it can never be delivered as it is.
  id=$(sql -v to="$run-a" <<'SQL'
insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
values ('psql', :'to', 'data', to_jsonb(repeat('x', 1100000))) returning message_id;
SQL
  )
  as a postbell listen --until-idle 2s
  number=$(postbell dead list --inbox "$run-a" --json | jq --arg id "$id" '.[] | select(.message_id == $id) | .delivery_id')
  [ -n "$number" ] || { echo "it is no dead letter"; return 1; }
  sql -v id="$id" <<< "update agent_messages set payload = '\"smaller\"' where message_id = :'id';"
  postbell dead redrive "$number"
  comes a '.payload == "smaller"'
}

deduplicated() {
  local first second
  first=$(as b postbell send --to "$run-a" --dedupe-key "$run" '"one"')
  second=$(as b postbell send --to "$run-a" --dedupe-key "$run" '"one"')
  [ "$first" = "$second" ]
  [ "$(as a postbell listen --until-idle 2s | wc -l)" -eq 1 ]
}

delayed() {
  local id
  id=$(as b postbell send --to "$run-a" --delay 1500ms '"later"')
  comes a '.payload == "later"'
  # By the database's own clock.
  [ "$(sql -v id="$id" <<< "select clock_timestamp() >= created_at + interval '1.5 s' from agent_messages where message_id = :'id';")" = t ]
}

expired() {
  as b postbell send --to "$run-a" --ttl 1s '"too late"'
  sql -c "select pg_sleep(1.2)"
  [ -z "$(as a postbell listen --until-idle 1s)" ]
}

topic() {
  as a postbell listen --subscribe "$run.*.done" --until-idle 1s
  as b postbell send --topic "$run.c12.done" '"subscribed"'
  comes a '.payload == "subscribed"'
}

to_many() {
  if as a postbell send --to-environment "$run" '"refused"'; then
    echo "an agent was let send to all"
    return 1
  fi
  as orchestrator postbell send --to-environment "$run" '"to both"'
  comes a '.payload == "to both"'
  comes b '.payload == "to both"'
  [ -z "$(as orchestrator postbell listen --until-idle 1s)" ]
}

once() {
  local other
  # The second finds it taken (status 75) or done (0); a third, later, finds it done.
  as b postbell once "$run-task" -- sh -c "echo b >> '$work/ran'" &
  other=$!
  as a postbell once "$run-task" -- sh -c "echo a >> '$work/ran'" || [ $? = 75 ]
  wait "$other" || [ $? = 75 ]
  as a postbell once "$run-task" -- sh -c "echo again >> '$work/ran'"
  [ "$(wc -l < "$work/ran")" -eq 1 ]
}

disabled() {
  local listening watching status=0
  as a postbell listen &
  listening=$!
  until [ "$(sql -v agent="$run-a" <<< "select status from agent_registry where agent_id = :'agent';")" = online ]; do
    kill -0 "$listening"
  done
  postbell agent disable "$run-a"
  # Where it is not put out, it is ended here, by a status that says so.
  ( sleep 10 && kill -KILL "$listening" ) > /dev/null 2>&1 &
  watching=$!
  wait "$listening" || status=$?
  kill "$watching" 2> /dev/null || true
  [ "$status" = 1 ]
  if as a postbell ping; then return 1; fi
  postbell agent enable "$run-a"
  as a postbell ping
}

rotated() {
  postbell agent rotate "$run-a" > "$work/new"
  if as a postbell ping; then
    echo "the old token still serves"
    return 1
  fi
  mv "$work/new" "$work/$run-a"
  as a postbell ping
}

nothing_late() {
  curl -fsS --max-time 10 "$HEALTH_URL/metrics" > "$work/metrics"
  grep -x "postbell_tail_late_total 0" "$work/metrics"
}
