# shellcheck shell=bash
# Install the unit, start the service and check both. Sourced, not run; needs installation.sh, $work and $prefix.

service_state='' was_active=no has_kept_unit=no
# After a crash systemd waits RestartSec=5s before the next start, so polling cannot miss it.
start_wait_s=60
steady_s=5

# keep_unit: save what put_back_unit restores.
keep_unit() {
  has_kept_unit=yes
  mkdir -p "$work/unit"
  if [ -e "$prefix$unit_file" ]; then cp -p "$prefix$unit_file" "$work/unit/agent.service"; fi
  if [ -d "$prefix$drop_in_dir" ]; then cp -rp "$prefix$drop_in_dir" "$work/unit/drop-ins"; fi
}

put_back_unit() {
  [ $has_kept_unit = yes ] && [ -e "$work/unit/agent.service" ] || return 0
  cp -p "$work/unit/agent.service" "$prefix$unit_file"
  rm -rf "$prefix$drop_in_dir"
  if [ -d "$work/unit/drop-ins" ]; then cp -rp "$work/unit/drop-ins" "$prefix$drop_in_dir"; fi
  if has_systemd; then systemctl daemon-reload; fi
}

# see_unit: check that systemd has read the installed unit.
see_unit() {
  cmp -s "$root/systemd/agent.service" "$prefix$unit_file" || failed "$prefix$unit_file is not the unit of this checkout"
  has_systemd || return 0
  [ "$(property LoadState)" = loaded ] || failed "systemd does not load agent.service: $(property LoadError)"
}

property() {
  systemctl show agent.service --property="$1" --value
}

# Print the state as systemd names it, with the agent's status line if it has sent one.
words_of_service() {
  local text
  text=$(property StatusText)
  printf '%s (%s)%s\n' "$(property ActiveState)" "$(property SubState)" "${text:+: $text}"
}

# wait_for_service: true if it stays active for $steady_s, or is still starting after $start_wait_s, because building an
# engine takes minutes; false if it has failed.
wait_for_service() {
  local end=$((SECONDS + start_wait_s)) since=''
  while [ $SECONDS -lt $end ]; do
    case $(property ActiveState)/$(property SubState) in
      active/*)
        since=${since:-$SECONDS}
        [ $((SECONDS - since)) -lt $steady_s ] || return 0
        ;;
      failed/* | inactive/* | */auto-restart*) return 1 ;;
      *) since='' ;;
    esac
    sleep 0.3
  done
}

start_service() {
  explain "Starting it now and at every boot"
  if has_systemd && [ $is_dry = no ] && systemctl is-active --quiet agent.service; then was_active=yes; fi
  change_system systemctl enable agent.service
  change_system systemctl restart --no-block agent.service
  if ! has_systemd; then
    service_state="not started: systemd does not run here"
    return
  fi
  [ $is_dry = no ] || return 0
  note "waiting until it is ready (an engine that is built takes minutes)"
  if wait_for_service; then
    service_state=$(words_of_service)
    note "$service_state"
    return
  fi
  service_state=$(words_of_service)
  # If it did not run before either, the new environment is not to blame and stays.
  [ $was_active = yes ] || is_proven=yes
  failed "the service does not run: $service_state" "the end of its log (journalctl -u agent):" \
    "$(journalctl --unit agent.service --no-pager --lines 8 --output cat 2>/dev/null | cut -c1-300)"
}

# restart_old_service: start the service with the restored environment.
restart_old_service() {
  has_systemd && [ $was_active = yes ] || return 0
  systemctl restart --no-block agent.service
  if wait_for_service; then
    note "The service runs with it: $(words_of_service)"
  else
    note "The service does not run with it either: $(words_of_service)"
  fi
}
