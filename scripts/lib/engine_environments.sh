# shellcheck shell=bash
# Environments for engines that cannot live beside the locked ONNX Runtime, or are too large to be everybody's.
# Sourced, not run; needs environment.sh. Their packages are pinned here and not in the lock: which build of them
# fits depends on the machine (CPU or CUDA), so no one hash is right everywhere.

engine_environments=(torch openvino gpu-wheel)

is_engine_environment() {
  case " ${engine_environments[*]} " in *" $1 "*) ;; *) return 1 ;; esac
}

# What REQUIRE_ENGINES says for that environment: these engines must run, their absence is a failure.
required_engines() {
  case $1 in
    torch) echo ort-cpu,torch ;;
    openvino) echo ort-cpu,ort-openvino ;;
    gpu-wheel) echo ort-cpu ;;
  esac
}

# install_engine FOLDER NAME: what it needs beyond the lock. All builds of ONNX Runtime share one import name, so
# another build replaces the locked one.
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
