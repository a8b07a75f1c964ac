# shellcheck shell=bash
# Shared by installing and removing the service. Sourced, not run; needs system.sh.

# Paths of an installation. Everything is written below $prefix, which is empty unless --root is given.
environment_dir=/opt/agent
config_dir=/etc/agent
state_dir=/var/lib/agent
unit_file=/etc/systemd/system/agent.service
drop_in_dir=/etc/systemd/system/agent.service.d
sysusers_file=/etc/sysusers.d/agent.conf

prefix=
is_dry=no
step_number=0

# explain TEXT: the heading of one step.
explain() {
  step_number=$((step_number + 1))
  printf '\n%s. %s\n' "$step_number" "$*" >&2
}

# note LINE...: what a step finds or skips.
note() {
  printf '   %s\n' "$@" >&2
}

# failed LINE...: a check of what was installed failed. The script's EXIT trap restores the old state.
failed() {
  printf '\nNOT installed: %s\n' "$1" >&2
  shift
  [ $# = 0 ] || printf '   %s\n' "$@" >&2
  exit 1
}

# change COMMAND...: show it; run it unless this is a dry run.
change() {
  printf '   $%s\n' "$(printf ' %q' "$@")" >&2
  [ $is_dry = yes ] || "$@"
}

# change_by SHOWN FUNCTION ARGUMENT...: as change, for a shell function; SHOWN is the equivalent command.
change_by() {
  printf '   $ %s\n' "$1" >&2
  [ $is_dry = yes ] || "${@:2}"
}

# change_system COMMAND...: as change, for the running system; skipped in a staged installation.
change_system() {
  if [ -n "$prefix" ]; then
    note "skipped below $prefix: $*"
  elif [ ! -d /run/systemd/system ] && [ $is_dry = no ]; then
    note "skipped, systemd does not run here: $*"
  else
    change "$@"
  fi
}

# install_file MODE SOURCE TARGET: copy it below $prefix unless TARGET has the same content.
install_file() {
  local mode=$1 source=$2 target=$prefix$3
  if cmp -s "$source" "$target"; then
    note "$3 is up to date"
  else
    change install -D -m "$mode" "$source" "$target"
  fi
}

# existing -d|-f OPTION PATH: print the absolute path of that directory or file; exit 2 if there is none.
# Call it in an assignment of its own: in `a=$(existing ...) && ...` set -e would ignore the failure.
existing() {
  local kind=file
  [ "$1" = -f ] || kind=directory
  test "$1" "$3" || {
    say "$2: there is no $kind $3"
    exit 2
  }
  realpath -e "$3"
}

# need_root: only root may write outside a staged installation.
need_root() {
  [ $is_dry = yes ] || [ -n "$prefix" ] || [ "$(id -u)" = 0 ] ||
    give_up "This changes the system and must run as root: sudo $0. What it would do: $0 --dry-run"
}

# has_systemd: systemd runs here, and the installation is not a staged one.
has_systemd() {
  [ -z "$prefix" ] && [ -d /run/systemd/system ]
}

# The lock of a running installation, removed at its end by let_others_run.
lock_file=

# be_the_only_one: exit 1 while another installation below the same $prefix runs. Without flock nothing is checked.
be_the_only_one() {
  local file=$prefix/run/agent-install.lock held busy other
  [ $is_dry = no ] && command -v flock >/dev/null || return 0
  mkdir -p "$prefix/run"
  while [ -z "$lock_file" ]; do
    exec {held}<>"$file"
    busy=0
    flock -n -E 75 "$held" || busy=$?
    if [ $busy = 75 ]; then
      other=$(cat "$file")
      failed "another installation is running (process ${other:-unknown}), and two would overwrite each other's files." \
        "Wait for it, or end it${other:+ (kill $other)}, and run this again"
    fi
    # One that ended meanwhile has removed the file, and a third may have made it again.
    if [ "$file" -ef "/proc/self/fd/$held" ]; then lock_file=$file; else exec {held}>&-; fi
  done
  # Emptied first: the last number may have been longer.
  : >"$file"
  echo $$ >&"$held"
}

let_others_run() {
  [ -z "$lock_file" ] || rm -f "$lock_file"
}
