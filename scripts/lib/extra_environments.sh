# shellcheck shell=bash
# Environments of `scripts/test --with`: for packages that conflict with the locked ONNX Runtime, are too large for every
# checkout, or come from the system. Sourced, not run; needs environment.sh, and $lock and run_pytest of its caller.
# They are pinned here, not in the lock: the build depends on the machine (CPU or CUDA), so no single hash fits everywhere.

extra_environments=(torch openvino gpu-wheel gstreamer jtop tensorrt-bindings triton prometheus browser schemathesis)

# test_extra NAME: make that environment and run the tests that need it. A missing engine, GStreamer or jtop fails there
# instead of being skipped.
test_extra() {
  case $1 in
    torch) test_engines torch ort-cpu,torch ;;
    openvino) test_engines openvino ort-cpu,ort-openvino ;;
    gpu-wheel) test_engines gpu-wheel ort-cpu ;;
    gstreamer) test_gstreamer ;;
    jtop) test_jtop ;;
    tensorrt-bindings) test_tensorrt_bindings ;;
    prometheus) test_prometheus ;;
    triton) test_triton ;;
    browser) test_browser ;;
    schemathesis) test_schemathesis ;;
  esac
}

# test_engines NAME REQUIRED: run the engine tests in an environment with more or other engines.
test_engines() {
  local folder
  folder=$(test_environment_folder "$1")
  have_environment "$folder" "$lock" install_engine "$1"
  REQUIRE_ENGINES=$2 run_pytest "$folder/bin/python" tests/*/test_engine*.py
}

# install_engine FOLDER NAME: install what it needs beyond the lock. All builds of ONNX Runtime share one import name, so
# another build must replace the locked one.
install_engine() {
  local folder=$1
  case $2 in
    torch) pip_install "$folder" torch==2.13.0 ;;
    openvino) replace_onnxruntime "$folder" onnxruntime-openvino==1.24.1 ;;
    gpu-wheel) replace_onnxruntime "$folder" 'onnxruntime-gpu>=1.23' ;;
  esac
  "$folder/bin/python" -m pip check
}

# replace_onnxruntime FOLDER REQUIREMENT
replace_onnxruntime() {
  "$1/bin/python" -m pip uninstall --quiet --yes onnxruntime
  pip_install "$1" "$2"
}

# GStreamer's bindings are a system package and work with the system's Python only.
test_gstreamer() {
  local folder PYTHON=/usr/bin/python3 environment_options=(--system-site-packages)
  if ! "$PYTHON" -c 'import gi; gi.require_version("Gst", "1.0")' 2>/dev/null ||
    ! gst-inspect-1.0 rtspsrc >/dev/null 2>&1 || ! gst-inspect-1.0 avdec_h264 >/dev/null 2>&1; then
    apt_install "${gstreamer_packages[@]}" ||
      give_up "GStreamer is missing. Install it, on Debian and Ubuntu: sudo apt-get install ${gstreamer_packages[*]}"
  fi
  folder=$(test_environment_folder gstreamer)
  have_environment "$folder" "$lock" :
  "$folder/bin/python" -c 'import gi; gi.require_version("Gst", "1.0")'
  run_pytest "$folder/bin/python" tests -k gstreamer
}

# jetson-stats runs in its own process, so its Python needs nothing else. Versions 4.2 and 4.3 (JetPack 5 and 6) refuse
# installation by an ordinary user outside a container.
test_jtop() {
  local new old older
  new=$(test_environment_folder jtop)
  old=$(test_environment_folder jtop4)
  older=$(test_environment_folder jtop42)
  have_packages "$new" jetson-stats==7.2.2
  have_packages "$old" jetson-stats==4.3.2
  have_packages "$older" jetson-stats==4.2.12
  JTOP_PYTHON=$new/bin/python JTOP_PYTHON_4=$old/bin/python JTOP_PYTHON_42=$older/bin/python REQUIRE_JTOP=1 \
    run_pytest "$environment/bin/python" tests -k jtop
}

# TensorRT's bindings are separate wheels without the libraries, for which the test has stubs. Two versions: 10 has weak
# typing, 11 does not. Our own code needs NumPy to be imported.
test_tensorrt_bindings() {
  local ten eleven
  ten=$(test_environment_folder tensorrt10)
  eleven=$(test_environment_folder tensorrt11)
  have_packages "$ten" tensorrt_cu12_bindings==10.16.1.11 cuda-bindings==13.4.4 numpy
  have_packages "$eleven" tensorrt_cu12_bindings==11.4.0.106 'cuda-bindings==12.9.*' numpy
  TENSORRT_BINDINGS=$ten/bin/python:$eleven/bin/python \
    run_pytest "$environment/bin/python" tests/integration/test_tensorrt_bindings.py \
    tests/integration/test_cuda_bindings.py
}

# A real Prometheus that scrapes an agent.
test_prometheus() {
  need_system prometheus:prometheus promtool:prometheus
  seal_path "$environment/bin/python"
  REQUIRE_PROMETHEUS=1 run_pytest "$environment/bin/python" tests/system/test_prometheus.py
}

# The page in Debian's Chromium. Playwright's own browsers are downloads; its driver and axe come in their wheels.
test_browser() {
  local folder
  need_system chromium:chromium
  folder=$(test_environment_folder browser)
  have_environment "$folder" "$lock" install_browser
  REQUIRE_BROWSER=1 run_pytest "$folder/bin/python" -n 0 tests/browser
}

# install_browser FOLDER
install_browser() {
  pip_install "$1" playwright==1.65.2 axe-playwright-python==0.1.8
}

# Requests made from the OpenAPI document. Its packages would move those of the lock, so it runs as a program of its own.
test_schemathesis() {
  local folder
  folder=$(test_environment_folder schemathesis)
  have_packages "$folder" schemathesis==4.32.5
  SCHEMATHESIS=$folder/bin/schemathesis run_pytest "$environment/bin/python" -n 0 tests/integration/test_web_openapi.py
}

# A real Triton with its Python backend comes in the wheel nvidia-pytriton, for x86-64 alone; beside other pins pip would
# take an old release of it. The client is of the same release; with NumPy 2 every output of that backend is empty.
triton_client=('tritonclient[http,grpc]==2.51.0' 'onnxruntime>=1.18,<1.24' 'numpy<2')

test_triton() {
  local client packages
  client=$(test_environment_folder triton-client)
  have_packages "$client" "${triton_client[@]}"
  packages=$(triton_packages)
  TRITON_CLIENT_PYTHON=$client/bin/python TRITON_PACKAGES=$packages \
    run_pytest "$environment/bin/python" -n 0 tests/integration/test_triton_oracle.py
}

# triton_packages: make the server's environment, and print the folder with the content of its wheel.
triton_packages() {
  local server
  server=$(test_environment_folder triton-server)
  have_packages "$server" --no-deps nvidia-pytriton==0.7.0
  "$server/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))'
}

# have_packages FOLDER REQUIREMENT...: make an environment with only these.
have_packages() {
  local folder=$1 wanted="${*:2}"
  [ "$(cat "$folder/.complete" 2>/dev/null)" = "$wanted" ] && return
  new_environment "$(select_python)" "$folder"
  pip_install "$folder" "${@:2}"
  printf '%s' "$wanted" >"$folder/.complete"
}
