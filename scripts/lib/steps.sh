# shellcheck shell=bash
# Steps of scripts/test: each is timed, a failed one does not stop the next. Sourced, not run.

step_lines=()
failed_steps=()
left_out=()
beside_pid=

# step NAME COMMAND...: run it with exit on error as in a script of its own.
step() {
  local name=$1 start=$SECONDS status=0 verdict=ok
  shift
  say "== $name"
  # `set -e` is ignored in a condition, also inside the functions that are called there.
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

# begin_beside NAME LOG COMMAND...: start it beside the next steps, its output in LOG. One at a time.
begin_beside() {
  beside_name=$1 beside_log=$2 beside_start=$SECONDS
  shift 2
  # A session of its own: Ctrl-C comes to it through end_beside alone, which also finds whatever it has started.
  setsid "$@" >"$beside_log" 2>&1 </dev/null &
  beside_pid=$!
  say "== $beside_name runs beside the next steps; its log: ${beside_log#"$root/"}"
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

# end_beside: ends it, and whatever it has started, where it still runs. For the trap of the script's end.
end_beside() {
  [ -n "$beside_pid" ] || return 0
  local waited
  # It tidies up at a polite signal; whatever is left of its session after that is killed.
  # What has ended already cannot be killed, and that must not become the script's exit code.
  kill -TERM "$beside_pid" 2>/dev/null || true
  for ((waited = 0; waited < 100; waited++)); do
    kill -0 "$beside_pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$beside_pid" 2>/dev/null || true
  beside_pid=
}

# descendants PID: the processes that it has started, and those that these have.
descendants() {
  local child
  for child in $(cat "/proc/$1"/task/*/children 2>/dev/null); do
    echo "$child"
    descendants "$child"
  done
}

# tidy_up_at_the_end FOLDER: however the script ends, nothing that it has started goes on, and FOLDER is removed.
tidy_up_at_the_end() {
  tidy_folder=$1
  trap tidy_up EXIT
  # Ctrl-C ends the script, also where the step that it interrupts comes to an orderly end. SIGTERM and SIGHUP do so
  # by themselves, at once; with a trap they would wait for the step.
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

# keep_everything INTERPRETER ARGUMENT...: start the script anew with these arguments, below a keeper (scripts/keeper.py),
# so that nothing which any of its steps has started outlives it. Returns where there is one already.
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
    # A run that broke off leaves no count.
    [ $((failed + other)) != 0 ] || other=${#failed_steps[@]}
  fi
  echo "$(count_of passed "$1") passed, $((failed + other)) failed, $(count_of skipped "$1") skipped"
  [ ${#failed_steps[@]} = 0 ]
}
