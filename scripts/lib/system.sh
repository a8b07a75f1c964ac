# shellcheck shell=bash
# System programs that the scripts need, and how they are asked for. Sourced, not run.

# command:package (Debian and Ubuntu names). The one place that lists what the tests need beside Python.
# shellcheck disable=SC2034  # used by scripts/test
test_needs=(
  mosquitto:mosquitto
  openssl:openssl
  git:git
  gcc:gcc
  strace:strace
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

# known_names OPTION LIST KNOWN: a name of LIST that is none of KNOWN (both with commas) ends the script: it would be
# passed over, and everything that was asked for would seem to be done.
known_names() {
  local name
  for name in ${2//,/ }; do
    case ,$3, in *",$name,"*) ;; *) say "$1 knows ${3//,/, }, not $name" && exit 2 ;; esac
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

# apt_install PACKAGE...: true once all are installed, false where this machine or this user cannot.
apt_install() {
  command -v apt-get >/dev/null || return 1
  as_root true || return 1
  say "Installing system packages: $*"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@")
  as_root "${install[@]}" >/dev/null 2>&1 && return 0
  # The package lists may be absent (fresh container) or stale.
  as_root apt-get update -qq >/dev/null && as_root "${install[@]}" >/dev/null
}

# need_system COMMAND:PACKAGE...: have every command, installing what is missing, or say what to install.
need_system() {
  local need missing=()
  # Debian keeps daemons where an ordinary user's PATH does not look.
  PATH="$PATH:/usr/local/sbin:/usr/sbin"
  for need in "$@"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
  done
  [ ${#missing[@]} = 0 ] && return 0
  apt_install "${missing[@]}" && return 0
  give_up "Missing system packages: ${missing[*]}. Install them and try again, on Debian and Ubuntu:
  sudo apt-get install ${missing[*]}"
}
