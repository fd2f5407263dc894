#!/bin/sh
# An agent in a few lines of shell: counts the words of a text. The bridge makes an agent of it:
#
#     agentexecutor bridge --capability shell.count -- examples/shell/agent.sh
#     agentexecutor submit shell.count '{"text": "to be or not to be"}'
#
# Each subtask is one JSON line on stdin; jq (any JSON tool will do) takes out what is needed.
if ! command -v jq >/dev/null; then
  echo "agent.sh needs jq, which is not installed: https://jqlang.org (Debian: apt-get install jq)" >&2
  exit 127
fi
while IFS= read -r line; do
  text=$(printf '%s' "$line" | jq -r '.input.text // empty')
  if [ -z "$text" ]; then
    echo '{"error": "text is missing", "retryable": false}'
    continue
  fi
  echo "counting ${#text} characters" >&2
  echo '{"progress": 0.5, "text": "counting"}'
  printf '{"result": {"words": %d}}\n' "$(printf '%s\n' "$text" | wc -w)"
done
