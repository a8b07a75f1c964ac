# shellcheck shell=bash
# Optional parts of an installation: each is installed separately; one that fails is listed at the end and stops nothing.
# Sourced, not run; needs system.sh, installation.sh, and $wheel, $staging, $environment_dir, $python, $l4t, $look_in,
# $root, $work of its caller.

# The whole output of pip; the screen gets one line for each call.
pip_log=/var/log/agent-install.log

missing_parts=()
added_parts=()

# lacks PART WHY COMMAND: list PART at the end. COMMAND installs it.
lacks() {
  missing_parts+=("$1|$2|$3")
  note "$1: skipped, $2"
}

# pip_logged ARGUMENT...: pip install in the new environment, without prompts; the output goes to the log.
pip_logged() {
  local status=0
  "$staging/bin/python" -m pip install --no-input --progress-bar off "$@" >"$work/pip.out" 2>&1 || status=$?
  { printf '\n== pip install %s: %s\n' "$*" "$status" && cat "$work/pip.out"; } >>"$prefix$pip_log"
  return $status
}

# pip_reason: print the line of the last call that says why it failed.
pip_reason() {
  local line
  # The line of the compiler, the index or the build: pip's own last line only says that something failed.
  line=$(grep -m1 -E 'fatal error: |No space left on device|No matching distribution found' "$work/pip.out" ||
    grep -E '^ {4,}([Ee]rror|[A-Za-z]+Error): ' "$work/pip.out" | tail -1 ||
    grep -E '^ *(ERROR|error): ' "$work/pip.out" | tail -1 || tail -1 "$work/pip.out")
  line=$(sed 's/^[[:space:]]*//; s/^ERROR: //' <<<"$line")
  printf '%s\n' "${line:0:200}"
}

# has_version DISTRIBUTION: print its version in the new environment; nothing if it is not installed.
has_version() {
  # Isolated: a checkout in the current directory may have metadata of its own, left by a build.
  "$staging/bin/python" -I -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))' "$1" 2>/dev/null || true
}

# add_part PART REQUIREMENT WITHOUT COMMAND: install it or list the reason. WITHOUT: what does not work without it.
add_part() {
  if pip_logged "$2"; then
    note "$1: installed"
    added_parts+=("$1")
  else
    lacks "$1" "$3: $(pip_reason)" "$4"
    return 1
  fi
}

again() {
  printf 'sudo %s/scripts/install-jetson' "$root"
}

# Print a line `here|system NAME VERSION` for each installed build of ONNX Runtime; all share one import name.
onnxruntime_builds() {
  "$staging/bin/python" - <<'PYTHON' 2>/dev/null || true
import importlib.metadata, pathlib, sys
for one in importlib.metadata.distributions():
    name = (one.metadata["Name"] or "").lower().replace("_", "-")
    if name == "onnxruntime" or name.startswith("onnxruntime-") and name != "onnxruntime-extensions":
        inside = pathlib.Path(sys.prefix).resolve() in pathlib.Path(one.locate_file("")).resolve().parents
        print("here" if inside else "system", name, one.version)
PYTHON
}

# add_onnxruntime KIND: install the CPU or GPU build from the index, or the file of --onnxruntime. A present build stays:
# two in one environment overwrite each other's files.
add_onnxruntime() {
  local kind=$1 builds others
  builds=$(onnxruntime_builds)
  others=$(grep -v ' onnxruntime ' <<<"$builds" || true)
  if [ -n "$onnxruntime_file" ]; then
    replace_onnxruntime "$builds"
    return
  fi
  if [ -n "$others" ]; then
    if grep -q '^system ' <<<"$others" && grep -q '^here onnxruntime ' <<<"$builds"; then
      note "ONNX Runtime: the CPU build hides the system's build and is removed"
      "$staging/bin/python" -m pip uninstall --yes onnxruntime >>"$prefix$pip_log" 2>&1
    fi
    note "ONNX Runtime: $(cut -d' ' -f2- <<<"$others" | paste -sd, -) is there and stays"
    import_onnxruntime || true
    return
  fi
  add_part "onnxruntime ($kind)" "${wheel}[$kind]" "no engine of ONNX Runtime, and nothing to compare others with" \
    "$(again) --extras $kind" || return 0
  import_onnxruntime || return 0
  [ -z "$l4t" ] || [ "$kind" = gpu ] || lacks "ort-cuda, ort-tensorrt" "the build of ONNX Runtime here is the one for the CPU" \
    "$(gpu_build_command)"
}

# gpu_build_command: print the command that installs a GPU build on this release of JetPack.
gpu_build_command() {
  local major=${l4t#R}
  if [ "${major%%.*}" -ge 38 ]; then
    printf '%s --extras jetson,gpu   (PyPI; agent doctor then says whether that build knows this GPU)\n' "$(again)"
  else
    printf '%s --onnxruntime FILE   (onnxruntime_gpu for Python %s, from the Jetson AI Lab package index for this JetPack)\n' \
      "$(again)" "$(python_version "$python")"
  fi
}

# replace_onnxruntime BUILDS: install the file of --onnxruntime instead of the present build.
replace_onnxruntime() {
  local names
  names=$(awk '$1 == "here" {print $2}' <<<"$1")
  # shellcheck disable=SC2086  # one name or several
  [ -z "$names" ] || "$staging/bin/python" -m pip uninstall --yes $names >>"$prefix$pip_log" 2>&1
  pip_logged "$onnxruntime_file" || failed "$onnxruntime_file cannot be installed: $(pip_reason)"
  import_onnxruntime || failed "$onnxruntime_file is installed and does not load"
  note "ONNX Runtime: $onnxruntime_file"
}

# import_onnxruntime: whether it loads; one that does not is listed.
import_onnxruntime() {
  local said
  if ! said=$("$staging/bin/python" -c 'import onnxruntime; onnxruntime.get_available_providers()' 2>&1); then
    lacks onnxruntime "it does not load: $(tail -1 <<<"$said" | cut -c1-160)" "agent doctor names it; $(again) --onnxruntime FILE replaces it"
    return 1
  fi
}

# cuda_major: print the major CUDA version of the driver; of the toolkit or of JetPack if no driver answers.
cuda_major() {
  local found
  found=$("$python" "$root/engines/probes/cuda_child.py" 2>/dev/null | sed -n 's/.*"cuda_driver": "\([0-9]*\).*/\1/p') || true
  # Source: /usr/local/cuda/version.json, {"cuda": {"name": "CUDA SDK", "version": "12.6.11"}, ...}
  [ -n "$found" ] || found=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["cuda"]["version"].split(".")[0])' \
    "$look_in/usr/local/cuda/version.json" 2>/dev/null) || true
  # JetPack 6 (R36) has CUDA 12, JetPack 7 (R38 on) CUDA 13.
  [ -n "$found" ] || case $l4t in R36*) found=12 ;; R3[89]*) found=13 ;; esac
  printf '%s\n' "$found"
}

# why_no_compiler: print what is missing to compile PyCUDA; nothing if it can be compiled.
why_no_compiler() {
  local include
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  command -v g++ >/dev/null || { echo "g++ is not installed" && return; }
  [ -e "$include/Python.h" ] || { echo "Python.h is not installed" && return; }
  [ -e /usr/local/cuda/include/cuda.h ] || { echo "the CUDA headers are not installed" && return; }
  [ -e /usr/local/cuda/include/curand.h ] || echo "the cuRAND headers are not installed"
}

# The engine tensorrt reaches CUDA through PyCUDA, which is compiled on the board, or through cuda-bindings.
add_cuda() {
  local version why major
  version=$(has_version pycuda)
  if [ -n "$version" ]; then
    note "CUDA: PyCUDA $version is there and stays"
    return
  fi
  why=$(why_no_compiler)
  if [ -z "$why" ] || has_extra pycuda || [ -n "$wheels" ]; then
    if [ -d /usr/local/cuda/bin ]; then export CUDA_ROOT=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH; fi
    if pip_logged 'pycuda>=2024.1'; then
      note "CUDA: PyCUDA $(has_version pycuda)"
      return
    fi
    why=${why:-$(pip_reason)}
  fi
  note "CUDA: no PyCUDA ($why), so cuda-bindings"
  major=$(cuda_major)
  if [ -z "$major" ]; then
    lacks tensorrt "no CUDA driver answers and no toolkit is there, so the matching version of cuda-bindings is unknown" \
      "sudo $environment_dir/bin/python -m pip install 'cuda-bindings==N.*'   (N: the major CUDA version of the driver)"
    return
  fi
  add_part cuda-bindings "cuda-bindings==$major.*" "the engine tensorrt cannot reach CUDA" "$(again)" || true
}

# host_jtop: print the version of this host's jetson-stats service, which accepts clients of its own version only.
host_jtop() {
  "$python" -c 'from importlib.metadata import version; print(version("jetson-stats"))' 2>/dev/null ||
    timeout 20 jtop --version 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | head -1 || true
}

add_jtop() {
  local version
  version=$(host_jtop)
  if [ -z "$version" ]; then
    note "jtop: jetson-stats is not installed on this host, so temperatures and power come from sysfs"
    return
  fi
  add_part "jtop client $version" "jetson-stats==$version" "temperatures and power come from sysfs" "$(again)" || true
}

# look_for_tensorrt: JetPack brings it, this script does not; list it if it is missing or does not load.
look_for_tensorrt() {
  local said
  if [ -z "$tensorrt" ]; then
    lacks tensorrt "TensorRT for Python is not installed" "sudo apt-get install python3-libnvinfer && $(again)"
  elif ! said=$("$staging/bin/python" -c 'import tensorrt' 2>&1); then
    lacks tensorrt "TensorRT $tensorrt is installed and does not load: $(tail -1 <<<"$said" | cut -c1-160)" \
      "sudo apt-get install --reinstall nvidia-jetpack && $(again)"
  fi
}

has_extra() {
  case ,$extras, in *,"$1",*) ;; *) return 1 ;; esac
}

# add_parts: install everything in $extras.
add_parts() {
  local extra
  for extra in cpu gpu; do
    if has_extra $extra; then add_onnxruntime $extra; fi
  done
  if has_extra jetson || has_extra pycuda; then
    if [ -n "$l4t" ]; then look_for_tensorrt; fi
    add_cuda
  fi
  if has_extra jetson; then add_jtop; fi
  if has_extra demo; then
    add_part "amqtt (part demo)" "${wheel}[demo]" "there is no embedded broker" "sudo apt-get install mosquitto" || true
  fi
  for extra in gpio serve grpc report torch dev; do
    if has_extra $extra; then
      add_part "part $extra" "${wheel}[$extra]" "what needs $extra does not run" "$(again) --extras $extras" || true
    fi
  done
}
