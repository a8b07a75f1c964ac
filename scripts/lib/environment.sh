# shellcheck shell=bash
# Virtual environments of the scripts. Sourced, not run; needs $root (the checkout) and system.sh.

# A failure inside $(...) ends the script too.
shopt -s inherit_errexit
: "${root:?}"

# Packages of another distribution on these paths (ROS does so on many boards) would shadow the locked ones.
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Options of venv for the environments made next.
environment_options=()

# python_version INTERPRETER: print its version as 3.12, or nothing if it does not run.
python_version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# The oldest Python that works, and the newest that was tested.
oldest_python=3.10
newest_tested_python=3.14

# python_fits VERSION: print yes, no, or newer (than any that was tested).
python_fits() {
  local major=${1%%.*} minor=${1#*.}
  if ! [[ $1 =~ ^[0-9]+[.][0-9]+$ ]] || [ "$major" -lt 3 ] || { [ "$major" = 3 ] && [ "$minor" -lt "${oldest_python#3.}" ]; }; then
    echo no
  elif [ "$major" -gt 3 ] || [ "$minor" -gt "${newest_tested_python#3.}" ]; then
    echo newer
  else
    echo yes
  fi
}

# select_python [CANDIDATE]...: print the path of the interpreter to use: $PYTHON, or the first candidate that fits. One newer
# than any tested is used only if there is no other: see warn_of_newer_python.
select_python() {
  local candidate version newer='' seen=()
  [ $# != 0 ] || set -- python3 python3.14 python3.13 python3.12 python3.11 python3.10
  [ -z "${PYTHON:-}" ] || set -- "$PYTHON"
  for candidate in "$@"; do
    version=$(python_version "$candidate")
    case $(python_fits "$version") in
      yes)
        place_of "$candidate"
        return
        ;;
      newer) newer=${newer:-$candidate} ;;
    esac
    seen+=("$candidate: ${version:+Python }${version:-not found or does not run}")
  done
  if [ -n "$newer" ]; then
    place_of "$newer"
    return
  fi
  give_up "This project runs on Python $oldest_python or newer, found here: $(comma_separated "${seen[@]}").
Name one that fits, for example: PYTHON=/usr/bin/python3.12 $0"
}

# place_of COMMAND: print its path. A link in the folder of a sealed PATH is resolved: an environment made with it must
# outlive that folder.
place_of() {
  local place
  place=$(command -v "$1")
  case $place in */sealed-*) place=$(readlink "$place") ;; esac
  printf '%s\n' "$place"
}

# warn_of_newer_python VERSION: warn if VERSION is newer than any tested.
warn_of_newer_python() {
  [ "$(python_fits "$1")" = newer ] || return 0
  say "Warning: Python $1 is newer than any that this project was tested on ($oldest_python to $newest_tested_python). If packages
cannot be installed or something fails, name an older one, for example: PYTHON=/usr/bin/python3.12 $0"
}

# Print the folder of the tests' environment for the selected interpreter: several versions stand side by side.
test_environment_folder() {
  local python
  python=$(select_python)
  printf '%s\n' "$root/.venvs/${1:-test}-$(python_version "$python")"
}

# new_environment INTERPRETER FOLDER: an empty virtual environment with pip in it.
new_environment() {
  local python=$1 folder=$2 package
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian and Ubuntu have these modules in a package of their own.
    package="python$(python_version "$python")-venv"
    apt_install "$package" || give_up "$python cannot make virtual environments: its modules venv and ensurepip are missing.
Install them and try again, on Debian and Ubuntu:
  sudo apt-get install $package"
  fi
  "$python" -m venv --clear "${environment_options[@]}" "$folder"
}

# pip_install FOLDER ARGUMENT...: pip install in that environment, quiet, without prompts.
pip_install() {
  local folder=$1
  shift
  "$folder/bin/python" -m pip install --quiet --no-input "$@"
}

# environment_key INTERPRETER FILE...: print a hash of all that an environment made from them depends on.
environment_key() {
  "$1" - "$root" "${@:2}" <<'PYTHON'
import hashlib, pathlib, sys
parts = [sys.version, sys.argv[1]] + [pathlib.Path(name).read_text() for name in sys.argv[2:]]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PYTHON
}

# is_made FOLDER KEY [LOCK]: it was completed with that key, and its interpreter and packages are still there.
is_made() {
  [ "$(cat "$1/.complete" 2>/dev/null)" = "$2" ] && is_whole "$1" "${@:3}"
}

# is_whole FOLDER [LOCK]: the interpreter runs, and each package that is installed, or named by LOCK, has its modules.
# Importing them would take a second at each start.
is_whole() {
  "$1/bin/python" -I - "${@:2}" 2>/dev/null <<'PYTHON'
import pathlib, re, sys, sysconfig
names = set()
for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
    for info in pathlib.Path(site).glob("*.dist-info"):
        names.add(re.sub(r"[-_.]+", "-", info.name.split("-")[0]).lower())
        record = info / "RECORD"
        files = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
        for top in {file.split(",")[0].split("/")[0] for file in files} - {"", "..", "__pycache__"}:
            if top[0] not in "/\"" and not pathlib.Path(site, top).exists():
                sys.exit(1)
for lock in sys.argv[1:]:
    from pip._vendor.packaging.markers import Marker
    for name, marker in re.findall(r"^([\w.-]+)==[^ ;]+ *(?:; *([^\\\n]+))?", pathlib.Path(lock).read_text(), re.M):
        if re.sub(r"[-_.]+", "-", name).lower() not in names and (not marker or Marker(marker.strip()).evaluate()):
            sys.exit(1)
PYTHON
}

# have_environment FOLDER LOCK [MORE ARGUMENT...]: make FOLDER an environment with the packages of LOCK and this checkout,
# editable. Made at the first call, and again when the lock, pyproject.toml, the interpreter or the checkout's path has
# changed. MORE is a function of extra_environments.sh, called with FOLDER and ARGUMENTs, that installs what the lock lacks;
# `:` if that is nothing.
have_environment() {
  local folder=$1 lock=$2 more=("${@:3}") named=() python key held busy=0 stamp=$1/.complete
  local inputs=("$lock" "$root/pyproject.toml")
  [ ${#more[@]} = 0 ] || inputs+=("$root/scripts/lib/extra_environments.sh")
  python=$(select_python)
  key="$(environment_key "$python" "${inputs[@]}") ${more[*]}"
  # MORE may replace packages of the lock.
  [ ${#more[@]} != 0 ] || named=("$lock")
  if is_made "$folder" "$key" "${named[@]}"; then return; fi
  if [ -e "$folder" ] && [ ! -d "$folder" ]; then
    give_up "$folder is a file, and the environment has to be made in a folder of that name. Move the file away:
  mv $(printf %q "$folder") $(printf %q "$folder.old")"
  fi
  if [ ! -w "$root" ] || { [ -e "$folder" ] && [ ! -w "$folder" ]; }; then
    give_up "${folder#"$root/"} has to be made in $root, where this user may not write. Run this in your own copy:
  cp -r $(printf %q "$root") DIR"
  fi
  # Two scripts at once would write into the same folder: the second waits until it is made. Without flock there is no wait.
  exec {held}<"$lock"
  flock -n -E 75 "$held" 2>/dev/null || busy=$?
  if [ $busy = 75 ]; then
    say "Waiting for another script that makes ${folder#"$root/"}"
    flock "$held" || true
  fi
  # Again: another script may have made it since, also one that was done before this one asked for the lock.
  if is_made "$folder" "$key" "${named[@]}"; then
    exec {held}<&-
    return
  fi
  say "Making ${folder#"$root/"} with Python $(python_version "$python") from ${lock#"$root/"} (downloads packages, takes a minute)"
  warn_of_newer_python "$(python_version "$python")"
  # A link to nothing: what it meant is gone.
  [ -e "$folder" ] || rm -f "$folder"
  rm -f "$stamp"
  # pip takes a package for installed whose modules are gone. With MORE start empty: packages that it replaced must not mix with those of the lock.
  if [ ${#more[@]} != 0 ] ||
    ! "$folder/bin/python" -m pip --version >/dev/null 2>&1 ||
    ! is_whole "$folder" ||
    [ "$(python_version "$folder/bin/python")" != "$(python_version "$python")" ]; then
    new_environment "$python" "$folder"
  fi
  pip_install "$folder" --require-hashes -r "$lock" ||
    give_up "The packages of ${lock#"$root/"} could not be installed; pip gives the reason above. Fix it and try again. Without a
network, install from a folder DIR of wheels: PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR $0"
  # The lock has the build backend too, so nothing unlocked is downloaded.
  pip_install "$folder" --no-deps --no-index --no-build-isolation --editable "$root"
  [ ${#more[@]} = 0 ] || "${more[0]}" "$folder" "${more[@]:1}"
  printf '%s' "$key" >"$stamp"
  exec {held}<&-
}

# copy_sources FOLDER INTERPRETER: copy what a wheel of this checkout is built from, and write the commit into the copy,
# which has no .git to ask.
copy_sources() {
  local commit
  mkdir -p "$1/scripts"
  cp -R "$root"/{agent,engines,LICENSE,README.md,pyproject.toml} "$1"
  cp "$root/scripts/build_commands.py" "$1/scripts"
  commit=$("$2" -I -B "$root/agent/version.py" | sed -n 's/.*+g//p')
  [ -z "$commit" ] || printf '%s\n' "$commit" >"$1/agent/commit.txt"
}
