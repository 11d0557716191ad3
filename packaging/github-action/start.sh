#!/usr/bin/env bash
# Starts the manager in the background, and gives the next steps its address and key.
set -euo pipefail

state="$RUNNER_TEMP/kruise-agents" # new in each job
read -ra options <<< "${OPTIONS-}"
nohup kruise-agents serve --port 0 --state-dir "$state" --log-level info ${options[@]+"${options[@]}"} > "$LOG" 2>&1 &
manager=$!
until [ -e "$state/manager.json" ]; do
  kill -0 "$manager" 2> /dev/null || { cat "$LOG"; exit 1; }
  sleep 0.2
done
kruise-agents env --state-dir "$state" --format github >> "$GITHUB_ENV"
