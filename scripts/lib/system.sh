# shellcheck shell=bash
# System programs that the scripts need, and their installation. Sourced, not run.

# The only list of what tests and scripts need besides Python. They run with a PATH of these programs only
# (scripts/sealed_path.py), so a program that is missing here is found on no machine.

# command:package (Debian and Ubuntu names). A package without a command has a function of this file instead, which checks
# whether it is installed.
# shellcheck disable=SC2034  # used by scripts/test
test_needs=(
  mosquitto:mosquitto
  mosquitto_pub:mosquitto-clients
  openssl:openssl
  git:git
  gcc:gcc
  can_compile:libc6-dev
  strace:strace
  curl:curl
)

# What `scripts/measure` needs beyond them.
# shellcheck disable=SC2034  # used by scripts/measure
measure_needs=(
  ffmpeg:ffmpeg
)

# Programs that are used if installed; otherwise a skipped test or a message names them.
# shellcheck disable=SC2034  # used by scripts/sealed_path.py
optional_programs=(
  sudo
  systemctl systemd-analyze systemd-sysusers journalctl
  gst-inspect-1.0 gst-launch-1.0 arv-fake-gv-camera-0.8
  nvidia-smi
  prometheus promtool
  chromium
  nats-server rabbitmq-server
)

# The base system: packages that are essential or of priority "required" in Debian 12, as debootstrap --variant=minbase
# installs. tests/unit/test_sealed_path.py checks the list against dpkg. Other releases have nearly the same.
# shellcheck disable=SC2034  # used by scripts/sealed_path.py
base_packages=(
  apt base-files base-passwd bash bsdutils coreutils dash debconf debianutils diffutils dpkg e2fsprogs findutils grep
  gzip hostname init-system-helpers libc-bin libpam-modules libpam-modules-bin libpam-runtime login mawk mount
  ncurses-base ncurses-bin passwd perl-base sed sysvinit-utils tar tzdata util-linux
)

# What `scripts/test --with gstreamer` needs.
# shellcheck disable=SC2034  # used by extra_environments.sh
gstreamer_packages=(
  python3-gi
  gir1.2-gst-plugins-base-1.0
  gstreamer1.0-tools
  gstreamer1.0-plugins-base
  gstreamer1.0-plugins-good
  gstreamer1.0-plugins-bad
  gstreamer1.0-libav
)

say() {
  printf '%s\n' "$*" >&2
}

comma_separated() {
  local joined
  joined=$(printf '%s, ' "$@")
  printf '%s\n' "${joined%, }"
}

# needs_value OPTION WHAT VALUE: exit 2 if VALUE is empty.
needs_value() {
  [ -n "$3" ] || { say "$1 needs $2 after it" && exit 2; }
}

# known_names OPTION LIST KNOWN: exit 2 if LIST has a name that KNOWN lacks (both comma-separated), or none at all. Ignored, a
# misspelt name would look like work that was done.
known_names() {
  local name names
  IFS=, read -ra names <<<"$2"
  [[ $2 == *[!,]* ]] || { say "$1 needs at least one of ${3//,/, }, not \"$2\"" && exit 2; }
  for name in "${names[@]}"; do
    [ -n "$name" ] || continue
    case ,$3, in *,"$name",*) ;; *) say "$1 knows ${3//,/, }, not $name" && exit 2 ;; esac
  done
}

# Exit code 69: something needed is unavailable, as in the program itself.
give_up() {
  say "$@"
  exit 69
}

# Run a command as root if that needs no password; fail otherwise.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 1
  fi
}

# apt_install PACKAGE...: install them; false if this machine or this user cannot.
apt_install() {
  # Maintainer scripts need the whole PATH, not the sealed one.
  local PATH=${UNSEALED_PATH:-$PATH}
  command -v apt-get >/dev/null || return 1
  as_root true || return 1
  say "Installing system packages: $*"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@")
  as_root "${install[@]}" >/dev/null 2>&1 && return 0
  # The package lists may be absent (fresh container) or stale.
  as_root apt-get update -qq >/dev/null && as_root "${install[@]}" >/dev/null
}

# can_compile: gcc finds the C library's headers and start files, which have their own package.
can_compile() {
  local folder status=0
  folder=$(mktemp -d)
  printf '#include <dlfcn.h>\n#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' >"$folder/try.c"
  gcc -o "$folder/try" "$folder/try.c" >/dev/null 2>&1 || status=1
  rm -rf "$folder"
  return $status
}

# is_there NAME: NAME is a command, or a function of this file that succeeds.
is_there() {
  if declare -F "$1" >/dev/null; then "$1"; else command -v "$1" >/dev/null; fi
}

# missing_packages COMMAND:PACKAGE...: print the packages whose command is missing.
missing_packages() {
  local need
  for need in "$@"; do
    is_there "${need%%:*}" || printf '%s\n' "${need##*:}"
  done
}

# need_system COMMAND:PACKAGE...: install what is missing, or give up and name what to install.
need_system() {
  local missing
  # Debian's daemons are outside an ordinary user's PATH.
  [ -n "${UNSEALED_PATH:-}" ] || PATH="$PATH:/usr/local/sbin:/usr/sbin"
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} = 0 ] && return 0
  if apt_install "${missing[@]}"; then
    hash -r
    # apt-get may succeed without bringing the command.
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} = 0 ] && return 0
    give_up "Installed, but still not usable: ${missing[*]}. See what they contain: dpkg -L ${missing[*]}"
  fi
  give_up "Missing system packages: ${missing[*]}. Install them and try again, on Debian and Ubuntu:
  sudo apt-get install ${missing[*]}"
}

# seal_path INTERPRETER: reduce PATH to the base system and the programs declared here. Call it after need_system.
seal_path() {
  local sealed
  export UNSEALED_PATH=${UNSEALED_PATH:-$PATH}
  sealed=$("$1" "$root/scripts/sealed_path.py" "$root/.venvs")
  if [ -n "$sealed" ]; then
    PATH=$sealed
  else
    unset UNSEALED_PATH
    say "There is no dpkg here: PATH stays as it is, so an undeclared program goes unnoticed."
  fi
}
