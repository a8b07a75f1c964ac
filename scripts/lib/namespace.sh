# shellcheck shell=bash
# Boots a systemd in namespaces, on a copy-on-write view of this machine. Sourced, not run; needs system.sh and $root, the
# checkout, which is mounted in the view at the same path.
# That systemd must never see the host's /dev or write to /proc/sys: it would make devices and set kernel values.

# make_view DIR BASE: mounts a view of the system in BASE at DIR/view/root whose changes go to memory.
make_view() {
  mkdir -p "$1/view"
  mount -t tmpfs -o size=3g none "$1/view"
  mkdir "$1"/view/{upper,work,root,cgroup,checkout,checkout-work}
  mount -t overlay -o "lowerdir=$2,upperdir=$1/view/upper,workdir=$1/view/work" overlay "$1/view/root" ||
    give_up "overlayfs is not available here"
}

# in_view VIEW COMMAND...: run it with the view as its root.
in_view() {
  local view=$1
  shift
  unshare -m --propagation private sh -ec '
    view=$1; checkout=$2; shift 2
    mount -t proc proc "$view/proc"
    mount --rbind /dev "$view/dev"
    mount -t tmpfs tmpfs "$view/tmp"
    mkdir -p "$view$checkout"
    layers=lowerdir=$checkout,upperdir=$view/../checkout,workdir=$view/../checkout-work
    mount -t overlay -o "$layers" overlay "$view$checkout"
    exec chroot "$view" "$@"' sh "$view" "$root" "$@"
}

# enter_namespace VIEW: start systemd there and set $systemd to its process id.
enter_namespace() {
  local cgroup
  mount -t cgroup2 none "$work/view/cgroup" || give_up "cgroup2 is not available here"
  cgroup=$work/view/cgroup/systemd-check-$$
  mkdir "$cgroup"
  sh -ec 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
    unshare -C -p -u -i -m -f --kill-child --propagation private \
    "$root/scripts/systemd-check" --inside "$1" </dev/null >"$work/systemd.log" 2>&1 &
  namespace=$!
  systemd=
  for _ in $(seq 100); do
    systemd=$(pgrep -P "$namespace" -o || true)
    [ -z "$systemd" ] || [ "$(cat "/proc/$systemd/comm")" != systemd ] || return 0
    sleep 0.1
  done
  cat "$work/systemd.log" >&2
  give_up "systemd did not start in its namespace"
}

# become_systemd VIEW: runs as process 1 of the new namespaces.
become_systemd() {
  local view=$1 node
  mount -t proc proc "$view/proc"
  mount --bind "$view/proc/sys" "$view/proc/sys"
  mount -o remount,bind,ro "$view/proc/sys"
  mount -t sysfs -o ro sysfs "$view/sys"
  mkdir -p "$view/sys/fs/cgroup"
  mount -t cgroup2 cgroup2 "$view/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$view/dev"
  for node in null zero full random urandom tty; do
    touch "$view/dev/$node"
    mount --bind "/dev/$node" "$view/dev/$node"
  done
  mkdir "$view/dev/pts" "$view/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$view/dev/pts"
  ln -s pts/ptmx "$view/dev/ptmx"
  mount -t tmpfs tmpfs "$view/dev/shm"
  mount -t tmpfs -o mode=755 tmpfs "$view/run"
  if [ -d "$view/../host" ]; then # what a script lets the view see of this machine
    mkdir "$view/run/host"
    mount --rbind "$view/../host" "$view/run/host"
  fi
  mount -t tmpfs -o mode=1777 tmpfs "$view/tmp"
  cd "$view"
  mkdir -p .old
  pivot_root . .old
  cd /
  umount -l .old
  # Without it systemd's own mounts do not reach the service: the credential's directory would be empty.
  mount --make-rshared /
  export container=systemd-check
  exec /lib/systemd/systemd --system --unit=basic.target
}

# inside COMMAND...: run it beside the services of that systemd.
inside() {
  nsenter -t "$systemd" -a -r -w "$@"
}

# host_pid: print the agent's process id outside the namespace.
host_pid() {
  local inner candidate
  inner=$(inside systemctl show agent.service --property=MainPID --value)
  for candidate in /proc/[0-9]*/status; do
    if [ "$(awk '/^NSpid:/ {print $NF; exit}' "$candidate" 2>/dev/null)" = "$inner" ] &&
      [ "$(readlink "$(dirname "$candidate")/ns/pid" 2>/dev/null)" = "$(readlink "/proc/$systemd/ns/pid")" ]; then
      basename "$(dirname "$candidate")"
      return
    fi
  done
}

leave_namespace() {
  if [ -n "${namespace:-}" ]; then
    kill -KILL "$namespace"
    wait "$namespace"
    sleep 0.3
  fi 2>/dev/null
  rmdir "$work/view/cgroup/systemd-check-$$" 2>/dev/null
}
