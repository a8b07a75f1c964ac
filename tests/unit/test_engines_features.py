"""A package may name an image's embedding: engines then give it beside the scores, and only where it is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.backends.onnxruntime.engine import BoundRunner
from engines.base import EngineOptions, Precision, features_of
from engines.check.import_request import ImportRequest
from engines.check.importer import import_model
from engines.check.package_check import check_package
from engines.errors import EngineUnavailable, ModelRejected
from engines.graph.serving import graph_address, serving_graph
from engines.package.load import ModelPackage, load_package
from engines.select.candidate import require_runnable
from engines.select.open import open_engine
from engines.select.registry import AUTO_ORDER, REMOTE, Prober
from tests.fixtures.packages import PackageFiles, TinyModel, embedding_model, embedding_package

_IMAGES = np.random.default_rng(8).integers(0, 256, (3, 16, 16, 3), np.uint8)


def _written(tmp_path: Path, files: PackageFiles) -> ModelPackage:
    return load_package(files.write(tmp_path))


def _expected(model: onnx.ModelProto, tensor: str = "embedding") -> npt.NDArray[np.float32]:
    """Each image alone through the unchanged model, by ONNX Runtime: ``(N, length)``."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    planes = _IMAGES[:, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    return np.concatenate([session.run([tensor], {"image": image[None]})[0].reshape(1, -1) for image in planes])


def _options(tmp_path: Path, precision: Precision = "fp32") -> EngineOptions:
    cache = tmp_path / "cache"
    return EngineOptions(engine="ort-cpu", precision=precision, max_batch=3, cache_dir=cache, sandbox=None)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_gives_the_embedding_of_the_model(tmp_path: Path, batch: int | str, precision: Precision) -> None:
    model = embedding_model(batch=batch)
    package = _written(tmp_path, embedding_package(model)).with_features()
    assert package.signature.features == 40
    with open_engine(package, _options(tmp_path, precision)) as engine:
        engine.infer(_IMAGES)
        found = features_of(engine)
        assert engine.info.max_batch == 3, "the batch dimension was freed, for the embedding too"
        assert engine.info.details["features"] == 40
    assert found is not None
    tolerance = 1e-5 if precision == "fp32" else 5e-3
    np.testing.assert_allclose(found, _expected(model), rtol=tolerance, atol=tolerance)


def test_an_engine_in_int8_gives_an_embedding_close_to_the_models(tmp_path: Path) -> None:
    import cv2

    files = embedding_package()
    for place in range(24):
        image = np.random.default_rng(place).integers(0, 256, (16, 16, 3), np.uint8)
        files.extra[f"calibration/{place}.png"] = cv2.imencode(".png", image)[1].tobytes()
    files.manifest["calibration"] = "calibration"
    package = _written(tmp_path, files).with_features()
    with open_engine(package, _options(tmp_path, "int8")) as engine:
        engine.infer(_IMAGES)
        found = features_of(engine)
    assert found is not None
    wanted = _expected(embedding_model())
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


def test_without_being_asked_the_graph_has_one_output_and_the_same_address(tmp_path: Path) -> None:
    package = _written(tmp_path, embedding_package())
    (tmp_path / "plain").mkdir()
    plain = _written(tmp_path / "plain", embedding_package(features=None))
    assert graph_address(package) == graph_address(plain) != graph_address(package.with_features())
    graph = serving_graph(package, cache_dir=tmp_path / "cache")
    assert [value.name for value in onnx.load(graph.path).graph.output] == ["scores"]
    with open_engine(package, _options(tmp_path)) as engine:
        engine.infer(_IMAGES)
        assert features_of(engine) is None
    assert package.digest != plain.digest, "the package states more"


def test_buffers_on_a_device_hold_the_embedding_too(tmp_path: Path) -> None:
    """The way of the GPU providers, with ONNX Runtime's buffers in the host's memory."""
    package = _written(tmp_path, embedding_package()).with_features()
    graph = serving_graph(package, cache_dir=tmp_path / "cache")
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    runner = BoundRunner(session, graph, memory="cpu", classes=5)
    for count in (3, 1, 3):
        scores, features = runner.run(_IMAGES[:count], onnxruntime.RunOptions())
        assert scores.shape == (count, 5)
        np.testing.assert_allclose(features, _expected(embedding_model())[:count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", ["n-d-1-1", "float16", "no-batch"])
def test_an_embedding_of_another_form_becomes_one_vector_per_image(tmp_path: Path, shape: str) -> None:
    model = embedding_model(batch=1)
    tensor = "pooled"
    if shape == "float16":
        tensor = "half"
        model.graph.node.append(helper.make_node("Cast", ["embedding"], ["half"], to=TensorProto.FLOAT16))
    elif shape == "no-batch":
        tensor = "flat"
        model.graph.initializer.append(numpy_helper.from_array(np.array([40], np.int64), "forty"))
        model.graph.node.append(helper.make_node("Reshape", ["embedding", "forty"], ["flat"]))
    package = _written(tmp_path, embedding_package(model, features=tensor)).with_features()
    assert package.signature.features == 40
    with open_engine(package, _options(tmp_path)) as engine:
        found = []
        for image in _IMAGES:
            engine.infer(image[None])
            found.append(features_of(engine))
    np.testing.assert_allclose(np.concatenate([one for one in found if one is not None]), _expected(model), rtol=2e-3)


@pytest.mark.parametrize(
    ("output", "facts"),
    [
        ({"features": "embeding"}, ["no output 'embeding'", "embedding (float32 ?x40)", "--features"]),
        (
            {"features": "map"},
            ["map (float32 ?x40x16x16)", "one vector of floats for each image", "behind the pooling"],
        ),
        ({"features": "logits"}, ["features and name are both logits", "the scores are no embedding"]),
        ({"features": "label"}, ["label (int64 ?)", "one vector of floats"]),
        ({"features": "image"}, ["no output 'image'"]),
        ({"features": 3}, ["output.features"]),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused_with_both_facts(
    tmp_path: Path, output: dict[str, Any], facts: list[str]
) -> None:
    model = embedding_model()
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
    with pytest.raises(ModelRejected) as caught:
        _written(tmp_path, embedding_package(model, **output))
    for fact in facts:
        assert fact in caught.value.message


def test_with_the_embedding_named_the_other_output_is_the_scores(tmp_path: Path) -> None:
    files = embedding_package()
    del files.manifest["output"]["name"]
    assert _written(tmp_path, files).signature.classes == 5
    alone = embedding_model()
    del alone.graph.output[0]
    (tmp_path / "alone").mkdir()
    files = embedding_package(alone)
    del files.manifest["output"]["name"]
    with pytest.raises(ModelRejected, match=r"the only output 'embedding', but output\.features takes it"):
        _written(tmp_path / "alone", files)


def test_a_model_whose_embedding_has_one_image_baked_in_runs_one_by_one(tmp_path: Path) -> None:
    model = embedding_model(batch=1)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 40), np.float32), "ones"))
    model.graph.node.append(helper.make_node("Concat", ["embedding", "ones"], ["longer"], axis=1))
    package = _written(tmp_path, embedding_package(model, features="longer"))
    assert serving_graph(package, cache_dir=tmp_path / "cache").max_batch is None
    assert serving_graph(package.with_features(), cache_dir=tmp_path / "cache").max_batch == 1


def test_engines_that_give_scores_only_refuse_the_package(tmp_path: Path) -> None:
    package = _written(tmp_path, embedding_package()).with_features()
    for name in (*AUTO_ORDER, REMOTE):
        if name.startswith("ort-") or name == "torch":
            continue
        with pytest.raises(EngineUnavailable, match="gives scores only, but features: true") as caught:
            require_runnable(package, name, Prober())
        assert "ort-cpu" in str(caught.value.fields["remedy"])
    with pytest.raises(ModelRejected, match=r"names 'embedding', but .* is a torch\.export program"):
        files = embedding_package()
        files.manifest["file"] = "model.pt2"
        files.extra["model.pt2"] = files.model
        (tmp_path / "pt2").mkdir()
        _written(tmp_path / "pt2", files)


def test_a_package_without_an_embedding_gives_none(tmp_path: Path) -> None:
    package = _written(tmp_path, PackageFiles.of(TinyModel()))
    with pytest.raises(ModelRejected, match=r"features is true, but package trees-1\.0\.0 names no tensor"):
        package.with_features()


@pytest.mark.parametrize(
    ("operator", "text"),
    [("Log", "has NaN or infinity for a test image"), ("Sign", "the same for every test image")],
)
def test_the_package_check_runs_the_embedding(tmp_path: Path, operator: str, text: str) -> None:
    model = embedding_model()
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["embedding", "minus"], ["below"]),
            helper.make_node(operator, ["below"], ["odd"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(-1, np.float32), "minus"))
    package = _written(tmp_path, embedding_package(model, features="odd"))
    if operator == "Log":
        with pytest.raises(ModelRejected, match=text):
            check_package(package)
    else:
        assert any(text in warning for warning in check_package(package).warnings)


def test_import_writes_the_embedding_into_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(embedding_model().SerializeToString())
    (tmp_path / "labels.txt").write_text("\n".join("abcde"))
    request = ImportRequest(
        model=tmp_path / "net.onnx", out=tmp_path, labels=tmp_path / "labels.txt", preset="raw255",
        features="embedding",
    )  # fmt: skip
    made = import_model(request).package
    assert (made.output.features, made.signature.features) == ("embedding", 40)
    assert load_package(tmp_path / "net-1.0.0").output.name is None
    with pytest.raises(ModelRejected, match=f"{tmp_path}/net.onnx has no output 'embed'"):
        import_model(replace(request, features="embed", version="2"))
