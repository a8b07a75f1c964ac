# shellcheck shell=bash
# Steps of scripts/test: each is timed, a failed one does not stop the next. Sourced, not run.

step_lines=()
failed_steps=()

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
  if [ ${#failed_steps[@]} != 0 ]; then
    printf 'failed steps: %s\n' "$(comma_separated "${failed_steps[@]}")"
    # A run that broke off leaves no count.
    [ $((failed + other)) != 0 ] || other=${#failed_steps[@]}
  fi
  echo "$(count_of passed "$1") passed, $((failed + other)) failed, $(count_of skipped "$1") skipped"
  [ ${#failed_steps[@]} = 0 ]
}
