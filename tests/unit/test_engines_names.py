"""Names of engines and options: valid names are accepted, others are refused with the nearest one."""

from __future__ import annotations

import pytest

from engines import OptionsRejected
from engines.backends.onnxruntime.options import engine_of, known_options, provider_of, session_settings
from engines.select.registry import canonical_name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("trt", "tensorrt"),
        ("TensorRT", "tensorrt"),
        ("ort_cuda", "ort-cuda"),
        ("ort-trt", "ort-tensorrt"),
        ("onnxruntime", "ort-cpu"),
        ("pytorch", "torch"),
        ("openvino", "ort-openvino"),
        ("auto", "auto"),
        ("fastest", "fastest"),
    ],
)
def test_usual_names_of_engines_are_understood(given: str, meant: str) -> None:
    assert canonical_name(given) == meant


@pytest.mark.parametrize(("given", "near"), [("tensort", "tensorrt"), ("ort-cpuu", "ort-cpu"), ("fastst", "fastest")])
def test_a_misspelt_engine_is_refused_with_the_nearest_and_all_names(given: str, near: str) -> None:
    with pytest.raises(
        OptionsRejected, match=rf"did you mean {near}\?.*Allowed are auto, fastest, tensorrt"
    ) as caught:
        canonical_name(given)
    assert caught.value.exit_code == 78


def test_a_provider_that_is_not_installed_is_no_engine() -> None:
    with pytest.raises(OptionsRejected, match="ort-<provider>"):
        canonical_name("ort-unheardof")


def test_a_remote_execution_provider_is_no_engine() -> None:
    with pytest.raises(OptionsRejected):
        canonical_name("ort-azure")


@pytest.mark.parametrize("name", ["ort-cpu", "ort-cuda", "ort-tensorrt", "ort-openvino", "ort-coreml", "ort-qnn"])
def test_engines_and_providers_name_each_other(name: str) -> None:
    assert engine_of(provider_of(name)) == name


def test_an_unknown_provider_still_has_a_name() -> None:
    assert engine_of("BrandNewExecutionProvider") == "ort-brandnew"


def test_a_misspelt_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(OptionsRejected, match=r"engine ort-cpu has no option thread: did you mean threads\?"):
        session_settings("ort-cpu", "CPUExecutionProvider", {"thread": 1}, default_threads=2)


def test_an_option_of_another_engine_is_refused_with_those_it_has() -> None:
    with pytest.raises(OptionsRejected, match=r"ort-cpu has no option dla_core: it has allow_spinning, threads"):
        session_settings("ort-cpu", "CPUExecutionProvider", {"dla_core": 1}, default_threads=2)


@pytest.mark.parametrize(
    ("provider", "name", "value"),
    [
        ("CPUExecutionProvider", "threads", "two"),
        ("CPUExecutionProvider", "threads", True),
        ("CPUExecutionProvider", "threads", 0),
        ("CPUExecutionProvider", "threads", 1025),
        ("CPUExecutionProvider", "threads", 999_999_999_999),
        ("CUDAExecutionProvider", "device_id", 2**64),
        ("CPUExecutionProvider", "allow_spinning", 1),
        ("TensorrtExecutionProvider", "trt_cuda_graph_enable", "yes"),
        ("CUDAExecutionProvider", "device_id", 0.5),
        ("CUDAExecutionProvider", "arena_extend_strategy", ["a"]),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused(provider: str, name: str, value: object) -> None:
    with pytest.raises(OptionsRejected, match=rf"option {name} of engine"):
        session_settings(engine_of(provider), provider, {name: value}, default_threads=2)


def test_each_provider_gets_booleans_in_its_own_spelling() -> None:
    tensorrt = session_settings(
        "ort-tensorrt", "TensorrtExecutionProvider", {"trt_cuda_graph_enable": True}, default_threads=1
    )
    cuda = session_settings(
        "ort-cuda", "CUDAExecutionProvider", {"use_tf32": False, "device_id": 1}, default_threads=1
    )
    assert tensorrt.provider == {"trt_cuda_graph_enable": "True"}
    assert cuda.provider == {"use_tf32": "0", "device_id": "1"}


def test_threads_default_to_the_share_of_cores_and_options_win() -> None:
    assert session_settings("ort-cpu", "CPUExecutionProvider", {}, default_threads=3).threads == 3
    given = session_settings(
        "ort-cpu", "CPUExecutionProvider", {"threads": 1, "allow_spinning": False}, default_threads=3
    )
    assert (given.threads, given.allow_spinning) == (1, False)


def test_threads_sleep_between_calls_unless_the_option_lets_them_spin() -> None:
    asleep = session_settings("ort-cpu", "CPUExecutionProvider", {}, default_threads=3)
    spinning = session_settings("ort-cpu", "CPUExecutionProvider", {"allow_spinning": True}, default_threads=3)
    assert (asleep.allow_spinning, spinning.allow_spinning) == (False, True)
    assert asleep.details("CPUExecutionProvider") == {"threads": 3, "threads_wait": "asleep"}
    assert spinning.details("CPUExecutionProvider") == {"threads": 3, "threads_wait": "spinning"}


def test_details_show_how_threads_wait_only_if_there_are_threads() -> None:
    alone = session_settings("ort-cpu", "CPUExecutionProvider", {"threads": 1}, default_threads=3)
    other = session_settings("ort-openvino", "OpenVINOExecutionProvider", {}, default_threads=3)
    assert alone.details("CPUExecutionProvider") == {"threads": 1}
    assert other.details("OpenVINOExecutionProvider") == {"threads": 3}


def test_options_of_an_unknown_provider_are_passed_on() -> None:
    settings = session_settings("ort-brandnew", "brandnewExecutionProvider", {"mode": "x"}, default_threads=1)
    assert settings.provider == {"mode": "x"}
    assert known_options("ort-brandnew") is None
