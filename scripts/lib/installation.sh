# shellcheck shell=bash
# What installing and removing the service share. Sourced, not run; needs system.sh.

# Where things go. Everything is written below $prefix, which is empty except for a staged installation.
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

# note LINE...: what a step finds or leaves out.
note() {
  printf '   %s\n' "$@" >&2
}

# failed LINE...: something that was done has been looked at and does not hold. The trap of the script tidies up.
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

# change_by SHOWN FUNCTION ARGUMENT...: as change, for a function of the scripts; SHOWN is the command that it comes to.
change_by() {
  printf '   $ %s\n' "$1" >&2
  [ $is_dry = yes ] || "${@:2}"
}

# change_system COMMAND...: as change, for what concerns the running system and not a staged one.
change_system() {
  if [ -n "$prefix" ]; then
    note "left out below $prefix: $*"
  elif [ ! -d /run/systemd/system ] && [ $is_dry = no ]; then
    note "left out, systemd does not run here: $*"
  else
    change "$@"
  fi
}

# install_file MODE SOURCE TARGET: copy it below $prefix, unless it is there already.
install_file() {
  local mode=$1 source=$2 target=$prefix$3
  if cmp -s "$source" "$target"; then
    note "$3 is up to date"
  else
    change install -D -m "$mode" "$source" "$target"
  fi
}

# existing -d|-f OPTION PATH: print the whole path of that directory or file; where there is none the script ends.
# Take it by an assignment that stands alone: before `&&` a failure would not end anything.
existing() {
  local kind=file
  [ "$1" = -f ] || kind=directory
  test "$1" "$3" || {
    say "$2: there is no $kind $3"
    exit 2
  }
  realpath -e "$3"
}

# need_root: the rest of the system belongs to root.
need_root() {
  [ $is_dry = yes ] || [ -n "$prefix" ] || [ "$(id -u)" = 0 ] ||
    give_up "This changes the system and must run as root: sudo $0. What it would do: $0 --dry-run"
}

# has_systemd: a systemd runs here, and what is installed is for this system.
has_systemd() {
  [ -z "$prefix" ] && [ -d /run/systemd/system ]
}
