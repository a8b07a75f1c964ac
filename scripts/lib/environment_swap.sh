# shellcheck shell=bash
# Make the agent's environment beside the present one, and replace that once the new agent has run. Sourced, not run; needs
# system.sh, environment.sh, installation.sh, and $prefix, $python, $work of its caller.
#   $live     the environment of the service
#   $staging  the new one, until it becomes $live
#   $before   the old one, until the installation is done

# place_environment: set the three paths, and undo an installation that was killed half-way.
place_environment() {
  live=$(realpath -m "$prefix$environment_dir")
  staging=$live.new before=$live.before is_mount=no
  if mountpoint -q "$live" 2>/dev/null; then
    # A mount point cannot be renamed, so its entries are moved.
    is_mount=yes staging=$live/.new before=$live/.before
  fi
  [ $is_dry = no ] || return 0
  # $staging is gone once its last entry is in place.
  if [ -d "$before" ] && { [ -d "$staging" ] || ! answers "$live"; }; then
    note "an earlier installation was interrupted: its previous environment is restored"
    put_back
  fi
  rm -rf "$staging" "$before"
}

# entries FOLDER: its entries, NUL-separated, without the other two environments.
entries() {
  find "$1" -mindepth 1 -maxdepth 1 ! -path "$live/.new" ! -path "$live/.before" -print0
}

# move_environment FROM TO
move_environment() {
  if [ $is_mount = no ]; then
    mv -T "$1" "$2"
  else
    mkdir -p "$2"
    entries "$1" | xargs -0r mv -t "$2"
    rmdir "$1" 2>/dev/null || true
  fi
}

# answers FOLDER: the agent that is installed there says its version.
answers() {
  (cd "$work" && timeout 60 "$1/bin/agent" --version) >/dev/null 2>&1
}

# version_in FOLDER: print the version of the agent there; nothing if it does not run.
version_in() {
  (cd "$work" && timeout 60 "$1/bin/python" -m agent --version 2>/dev/null | sed -n 's/^agent, version //p') || true
}

# copy_environment SEES_SYSTEM: start from a copy of $live, which keeps packages that were added by hand, such as a GPU
# build of ONNX Runtime or a compiled PyCUDA.
copy_environment() {
  local reason
  mkdir -p "$staging"
  # cp prints a line for each file that does not fit; the first is enough.
  reason=$(entries "$live" | LC_ALL=C xargs -0r cp -a --reflink=auto -t "$staging" 2>&1 | sed -n 1p) || cannot_copy "$reason"
  sed -i "s/^include-system-site-packages = .*/include-system-site-packages = $1/" "$staging/pyvenv.cfg"
  rename_inside "$live" "$staging"
}

# cannot_copy REASON: remove what was copied, and say why the rest was not.
cannot_copy() {
  local needed free
  rm -rf "$staging"
  case $1 in
    *"No space left on device" | *"Disk quota exceeded")
      needed=$(du -sm "$live" | cut -f1)
      free=$(df -m --output=avail "${staging%/*}" | tail -n 1)
      failed "the new environment begins as a copy of $live, which needs $needed MB, and $((free)) MB are free in ${staging%/*}." \
        "The present environment is unchanged. Free some space there and run this again"
      ;;
  esac
  failed "the present environment cannot be copied to $staging: $1"
}

# rename_inside FROM TO: replace the path in the programs of $staging, whose first line is the interpreter's full path.
rename_inside() {
  "$staging/bin/python" -I - "$staging" "$1" "$2" <<'PYTHON'
import pathlib, re, sys
folder, old, new = pathlib.Path(sys.argv[1]), *(name.encode() for name in sys.argv[2:])
for file in [*(folder / "bin").iterdir(), folder / "pyvenv.cfg"]:
    if file.is_symlink() or not file.is_file() or b"\0" in (text := file.read_bytes()):
        continue
    file.write_bytes(re.sub(re.escape(old) + rb"(?![\w.-])", lambda _: new, text))
PYTHON
}

# begin_environment: create $staging, as a copy of $live if that has the same Python and a pip.
begin_environment() {
  local sees_system=false
  [ ${#environment_options[@]} = 0 ] || sees_system=true
  if [ "$(python_version "$live/bin/python")" = "$(python_version "$python")" ] &&
    "$live/bin/python" -m pip --version >/dev/null 2>&1; then
    change_by "cp -a $live $staging   # keeps what was added by hand" copy_environment $sees_system
  else
    change_by "$python -m venv --clear ${environment_options[*]} $staging" new_environment "$python" "$staging"
  fi
}

# have_builder: install pip and setuptools into $staging. Those of Ubuntu 22.04, which $staging may see, do not know the
# [project] table: they build a package UNKNOWN and report success.
have_builder() {
  if pip_logged --upgrade pip 'setuptools>=77'; then return; fi
  # A folder of wheels may lack pip; the present one can install them.
  if [ -n "$wheels" ] && pip_logged --upgrade 'setuptools>=77'; then return; fi
  failed "a setuptools that can build the agent cannot be installed: $(pip_reason)"
}

# make_wheel: set $wheel, from --wheels or built from a copy of this checkout. A build in place would leave root's files in
# the checkout, and install what an earlier build left there.
make_wheel() {
  local found=() copy=$work/checkout
  if [ -n "$wheels" ]; then
    mapfile -t found < <(find "$wheels" -maxdepth 1 -name 'edge_inference_agent-*.whl')
    [ ${#found[@]} -le 1 ] || failed "$wheels holds ${#found[@]} wheels of the agent, so it is unclear which to install. Leave one:" "${found[@]}"
  fi
  # Only a ready wheel needs no builder; packages from the index may need one.
  if [ -z "$wheels" ] || [ ${#found[@]} = 0 ]; then have_builder; fi
  if [ ${#found[@]} = 0 ]; then
    copy_sources "$copy" "$python"
    if ! "$staging/bin/python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$work/wheel" "$copy" >"$work/pip.out" 2>&1; then
      cat "$work/pip.out" >>"$prefix$pip_log"
      failed "the agent cannot be built: $(pip_reason)"
    fi
    mapfile -t found < <(find "$work/wheel" -name 'edge_inference_agent-*.whl')
    [ ${#found[@]} = 1 ] || failed "building the agent gave $(ls "$work/wheel"), not edge_inference_agent-VERSION.whl: its setuptools is too old"
  fi
  wheel=${found[0]}
  expected=${wheel##*/edge_inference_agent-}
  expected=${expected%%-*}
}

# install_wheel: the agent and its required packages.
install_wheel() {
  local has_same=no
  # pip skips a wheel whose version is installed, even if its content differs.
  if [ "$(has_version edge-inference-agent)" = "$expected" ]; then has_same=yes; fi
  pip_logged "$wheel" || failed "the agent's packages cannot be installed: $(pip_reason)"
  [ $has_same = no ] || pip_logged --force-reinstall --no-deps "$wheel" || failed "the agent cannot be installed: $(pip_reason)"
}

# see_that_it_runs: check the new agent before it replaces the old one.
see_that_it_runs() {
  local found file=$prefix$config_dir/agent.yaml
  [ -x "$staging/bin/agent" ] || failed "pip installed no program agent"
  found=$(version_in "$staging")
  [ "$found" = "$expected" ] || failed "the new agent reports version ${found:-nothing (it does not run)}, $expected was installed" \
    "$(cd "$work" && "$staging/bin/python" -m agent --version 2>&1 | tail -1)"
  "$staging/bin/python" -m pip check >"$work/pip.out" 2>&1 || cat "$work/pip.out" >>"$prefix$pip_log"
  # Other lines are about packages of the system.
  note "$(grep '^edge-inference-agent ' "$work/pip.out" || echo "pip check finds no conflict of the agent")"
  if [ -e "$file" ] && ! check_config "$staging" >"$work/config.out" 2>&1 && check_config "$live" >/dev/null 2>&1; then
    failed "the new agent refuses $file, which the present one accepts:" "$(tail -5 "$work/config.out")"
  fi
}

check_config() {
  (cd "$work" && "$1/bin/python" -m agent config check "$prefix$config_dir/agent.yaml")
}

# take_place: make $staging the service's environment, by two renames. place_environment of the next run undoes a run that
# was killed between them.
take_place() {
  rename_inside "$staging" "$live"
  if [ -n "$(find "$live" -mindepth 1 -maxdepth 1 ! -path "$staging" -print -quit 2>/dev/null)" ]; then
    is_swapped=yes
    move_environment "$live" "$before"
  fi
  is_swapped=yes
  move_environment "$staging" "$live"
  local found
  found=$(cd "$work" && "$live/bin/agent" --version 2>&1 | tail -1) || true
  [ "$found" = "agent, version $expected" ] || failed "$live/bin/agent says ${found:-nothing}, $expected was installed"
}

# put_back: restore the old environment, or leave none if there was none.
put_back() {
  if [ $is_mount = yes ] && [ -d "$before" ]; then
    put_back_entries
  elif [ $is_mount = yes ]; then
    entries "$live" | xargs -0r rm -rf
  elif [ -d "$before" ]; then
    rm -rf "$staging"
    if [ -e "$live" ]; then move_environment "$live" "$staging"; fi
    move_environment "$before" "$live"
  else
    rm -rf "$live"
  fi
  rm -rf "$staging"
}

# put_back_entries: an entry of $live that $before lacks may be an old one that was not moved yet, so it stays. $staging is
# kept until the end: it tells the next run that this one was killed.
put_back_entries() {
  local entry
  mkdir -p "$staging"
  while IFS= read -r -d '' entry; do
    rm -rf "${live:?}/${entry##*/}"
    mv -t "$live" "$entry"
  done < <(entries "$before")
  rmdir "$before"
}
