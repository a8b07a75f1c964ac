# shellcheck shell=bash
# Installs packages in a copy of a minimal system and checks each. Sourced, not run; needs system.sh.

# in_try COMMAND...: run it in the copy, with /proc and /dev.
in_try() {
  # exec: the mount namespace ends with the command.
  unshare -m --propagation private sh -ec '
    tree=$1; shift
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    exec chroot "$tree" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
  ' sh "$try_tree" "$@"
}

# require WHAT COMMAND...: one check; the first that fails ends the script.
require() {
  local what=$1
  shift
  if "$@" >"$try_tree.log" 2>&1; then
    say "   ok    $what"
  else
    tail -n 20 "$try_tree.log" >&2
    give_up "   FAILED $what"
  fi
}

# try_packages ROOT DEB...: install the first, then upgrade or downgrade to each following one.
try_packages() {
  local base=$1 deb number=0
  [ "$(id -u)" = 0 ] || give_up "--try needs root: it mounts and changes root"
  [ -x "$base/usr/bin/dpkg" ] || give_up "$base is no Debian or Ubuntu system. Make one: debootstrap --variant=minbase bookworm $base"
  shift
  try_tree=$(mktemp -d)
  trap 'rm -rf --one-file-system "$try_tree" "$try_tree.log" "$try_tree.before"' EXIT
  say "$(. "$base/etc/os-release" && echo "$PRETTY_NAME"), packages: $(printf '%s ' "${@##*/}")"
  cp -a "$base/." "$try_tree"
  cp /etc/resolv.conf "$try_tree/etc/resolv.conf" 2>/dev/null || true
  mkdir "$try_tree/packages"
  for deb in "$@"; do cp -n "$deb" "$try_tree/packages/"; done
  require "apt reaches its lists" in_try apt-get update -q
  # Dependencies first, so that the files compared at the end are the package's own.
  require "dependencies can be installed" in_try sh -ec '
    apt-get install -yq --no-install-recommends "/packages/$1"
    dpkg --purge edge-inference-agent
    apt-get clean' sh "${1##*/}"
  list_files >"$try_tree.before"
  for deb in "$@"; do
    number=$((number + 1))
    try_one "$number" "${deb##*/}"
  done
  try_conffile "${1##*/}"
  try_removal "${1##*/}"
  say "All held."
}

# All files, except those that any use of dpkg or a running system changes.
list_files() {
  (cd "$try_tree" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./packages -o -path ./tmp -o -path ./var/cache \
    -o -path ./var/log -o -path ./var/lib/dpkg -o -path ./var/lib/apt \) -prune -o -print | sort)
}

# try_one NUMBER FILE: install that version; a change by hand in the configuration must stay.
try_one() {
  local wanted
  wanted=$(in_try dpkg-deb -f "/packages/$2" Version)
  say "$1. $wanted"
  require "dpkg --install" in_try dpkg --install "/packages/$2"
  require "dpkg -s: installed, this version" in_try sh -c '
    dpkg -s edge-inference-agent | grep -x "Status: install ok installed" && dpkg -s edge-inference-agent | grep -xF "Version: $1"' sh "$wanted"
  # A release has no commit in its version.
  require "agent --version names the package's commit" in_try sh -c '
    commit=$(expr "$1" : ".*[.]g\([0-9a-f]*\)$") || commit=
    /opt/agent/bin/agent --version | grep -F "${commit:+g$commit}"' sh "$wanted"
  require "a configuration that was changed by hand is kept" in_try sh -c '
    [ "$1" = 1 ] || grep -qx "# by hand" /etc/agent/agent.yaml
    [ "$1" != 1 ] || echo "# by hand" >>/etc/agent/agent.yaml' sh "$1"
  require "the password is root's alone" in_try sh -c '[ "$(stat -c "%a %U" /etc/agent/mqtt-password)" = "600 root" ]'
  require "the service is enabled" test -L "$try_tree/etc/systemd/system/multi-user.target.wants/agent.service"
  require "the demo runs as the user agent" in_try sh -c '
    install -d -o agent -g agent -m 700 /var/lib/agent
    setpriv --reuid agent --regid agent --init-groups env HOME=/var/lib/agent STATE_DIRECTORY=/var/lib/agent \
      /opt/agent/bin/agent demo --for 8s >/tmp/demo.log 2>&1 || { cat /tmp/demo.log; exit 1; }'
  # dpkg --verify lists files that differ and exits with 0; the configuration differs on purpose.
  require "no file was changed after it was packed" in_try sh -c '
    test -s /var/lib/dpkg/info/edge-inference-agent.md5sums
    ! dpkg --verify edge-inference-agent | grep -v " c /etc/agent/agent.yaml$"'
}

# try_conffile FILE: an invalid configuration is reported and does not fail the installation.
try_conffile() {
  say "An invalid configuration"
  require "is reported, and the package is installed" in_try sh -c '
    cp /etc/agent/agent.yaml /tmp/kept && echo "camers: {}" >>/etc/agent/agent.yaml
    dpkg --install "/packages/$1" >/tmp/said 2>&1 || exit 1
    grep -q "enabled and not started" /tmp/said && grep -q camers /tmp/said
    cp /tmp/kept /etc/agent/agent.yaml' sh "$1"
}

try_removal() {
  local left
  say "Removal"
  require "remove keeps configuration, password and state" in_try sh -c '
    dpkg --remove edge-inference-agent && test -e /etc/agent/agent.yaml -a -e /etc/agent/mqtt-password -a -d /var/lib/agent
    test ! -e /opt/agent'
  require "an installation afterwards finds them" in_try sh -c '
    dpkg --install "/packages/$1" && grep -qx "# by hand" /etc/agent/agent.yaml && test -L /etc/systemd/system/multi-user.target.wants/agent.service' sh "$1"
  require "purge" in_try dpkg --purge edge-inference-agent
  left=$(list_files | comm -13 "$try_tree.before" -)
  require "no file is left: ${left:-none}" test -z "$left"
}
