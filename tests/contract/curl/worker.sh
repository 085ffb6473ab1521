#!/usr/bin/env bash
# A worker with nothing but curl and jq: leases tasks by REST, doubles `n`, and completes them, until one says "stop".
#
#   OPENMCP_URL=… OPENMCP_WORKSPACE_ID=… OPENMCP_WORKSPACE_SECRET=… worker.sh <type>
set -euo pipefail
type=$1

call() { # path, body, and more for curl
  curl --silent --show-error --fail-with-body --max-time 60 --config <(printf 'header = "authorization: Bearer %s"' "${token-}") \
    --header 'content-type: application/json' --data "$2" "${@:3}" "$OPENMCP_URL$1"
}

token=$(
  jq --null-input '{workspace_id: env.OPENMCP_WORKSPACE_ID, workspace_secret: env.OPENMCP_WORKSPACE_SECRET}' |
    call /v1/auth/token @- | jq --raw-output .access_token
)

while true; do
  # The same request_id until there is an answer: one that is lost on the way hides no task.
  ask=$(jq --null-input --arg id "$(cat /proc/sys/kernel/random/uuid)" --arg type "$type" \
    '{worker_name: "bash", task_types: [$type], wait: "20s", request_id: $id}')
  answer=$(call /v1/worker/tasks:lease "$ask" --retry 10 --retry-delay 1 --retry-all-errors)
  while read -r task; do
    [ -n "$task" ] || continue
    lease=$(jq '{lease}' <<<"$task")
    said=$(jq '. + {progress: {fraction: 0.5, message: "halfway"}, log: "curl was here"}' <<<"$lease")
    # A task has room for 200 lines. One more is refused; the lease and the progress are kept all the same.
    heard=$(call /v1/worker/tasks:heartbeat "$said") || [ "$(jq --raw-output .error.code <<<"$heard")" = EVENTS_FULL ]
    echo "$heard" >&2
    if [ "$(jq '.payload.n' <<<"$task")" = null ]; then
      call /v1/worker/tasks:fail "$(jq '. + {code: "NO_NUMBER", message: "payload.n: is required"}' <<<"$lease")" >&2
    else
      call /v1/worker/tasks:complete "$(jq --argjson task "$task" '. + {result: {doubled: ($task.payload.n * 2)}}' <<<"$lease")" >&2
    fi
    [ "$(jq '.payload.stop' <<<"$task")" != true ] || exit 0
  done <<<"$(jq --compact-output '.tasks[]' <<<"$answer")"
done
