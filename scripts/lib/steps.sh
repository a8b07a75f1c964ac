# shellcheck shell=bash
# Steps of scripts/test: each is timed; after a failed one the next still runs. Sourced, not run.

step_lines=()
failed_steps=()
left_out=()
beside_pid=

# step NAME COMMAND...: run it under `set -e`, time it, record its result.
step() {
  local name=$1 start=$SECONDS status=0 verdict=ok
  shift
  say "== $name"
  # Not `if (...)`: bash ignores `set -e` in a condition, also in the functions called there.
  set +e
  (
    set -e
    "$@"
  )
  status=$?
  set -e
  if [ $status != 0 ]; then
    verdict="FAILED ($status)"
    failed_steps+=("$name")
  fi
  step_lines+=("$(printf '%5d s  %-28s %s' $((SECONDS - start)) "$name" "$verdict")")
  say "${step_lines[-1]}"
}

# begin_beside NAME LOG COMMAND...: run it in parallel with the next steps, its output in LOG. One at a time.
begin_beside() {
  beside_name=$1 beside_log=$2 beside_start=$SECONDS
  shift 2
  # setsid: Ctrl-C reaches it only through end_beside, which kills the whole session.
  setsid "$@" >"$beside_log" 2>&1 </dev/null &
  beside_pid=$!
  say "== $beside_name runs beside the next steps; log: ${beside_log#"$root/"}"
}

# join_beside LINES: wait for its end, print the last LINES of its log, and count it as a step.
join_beside() {
  local status=0 verdict=ok
  say "== $beside_name"
  wait "$beside_pid" || status=$?
  beside_pid=
  tail -n "$1" "$beside_log" >&2
  if [ $status != 0 ]; then
    verdict="FAILED ($status)"
    failed_steps+=("$beside_name")
  fi
  step_lines+=("$(printf '%5d s  %-28s %s' $((SECONDS - beside_start)) "$beside_name" "$verdict, beside the others")")
  say "${step_lines[-1]}"
}

# end_beside: end it and everything it has started, if it still runs. For the EXIT trap.
end_beside() {
  [ -n "$beside_pid" ] || return 0
  local waited
  # SIGTERM lets it clean up; the rest of its session is killed after 10 s. `|| true`: it may have ended meanwhile.
  kill -TERM "$beside_pid" 2>/dev/null || true
  for ((waited = 0; waited < 100; waited++)); do
    kill -0 "$beside_pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$beside_pid" 2>/dev/null || true
  beside_pid=
}

# descendants PID: print the ids of its children, and of theirs.
descendants() {
  local child
  for child in $(cat "/proc/$1"/task/*/children 2>/dev/null); do
    echo "$child"
    descendants "$child"
  done
}

# tidy_up_at_the_end FOLDER: when the script ends, for any reason, kill everything that it has started and remove FOLDER.
tidy_up_at_the_end() {
  tidy_folder=$1
  trap tidy_up EXIT
  # Without this trap the script would go on after a step that handles Ctrl-C itself. SIGTERM and SIGHUP have none: bash
  # would run it only after the step.
  trap 'exit 130' INT
}

tidy_up() {
  local left
  trap '' INT TERM HUP
  end_beside
  mapfile -t left < <(descendants $$)
  [ ${#left[@]} = 0 ] || kill -KILL "${left[@]}" 2>/dev/null || true
  rm -rf "$tidy_folder"
}

# keep_everything INTERPRETER ARGUMENT...: start the script again with these arguments under scripts/keeper.py, so that no
# process of any step outlives it. Returns if it already runs under one.
keep_everything() {
  [ "${KEPT_BY:-}" != "$PPID" ] || return 0
  exec "$1" "$root/scripts/keeper.py" "$0" "${@:2}"
}

# count_of WORD LOG: sum over the last line of each pytest run, `1 failed, 27 passed in 8.89s`.
count_of() {
  awk -v word="$1" '
    /^=* ?[0-9]+ [a-z]+.* in [0-9.]+s/ { for (i = 1; i < NF; i++) if ($(i + 1) ~ "^" word ",?$") sum += $i }
    END { print sum + 0 }
  ' "$2"
}

# finish LOG: the times, then `N passed, N failed` over all runs of pytest; a failed step of another kind counts as one
# failure. Exits 1 if a step failed.
finish() {
  touch "$1"
  local failed other=0 name
  failed=$(($(count_of failed "$1") + $(count_of 'errors?' "$1")))
  for name in "${failed_steps[@]}"; do
    case $name in pytest*) ;; *) other=$((other + 1)) ;; esac
  done
  echo
  printf '%s\n' "${step_lines[@]}"
  [ ${#left_out[@]} = 0 ] || printf 'left out: %s\n' "$(comma_separated "${left_out[@]}")"
  if [ ${#failed_steps[@]} != 0 ]; then
    printf 'failed steps: %s\n' "$(comma_separated "${failed_steps[@]}")"
    # An aborted run of pytest prints no count.
    [ $((failed + other)) != 0 ] || other=${#failed_steps[@]}
  fi
  echo "$(count_of passed "$1") passed, $((failed + other)) failed, $(count_of skipped "$1") skipped"
  [ ${#failed_steps[@]} = 0 ]
}
