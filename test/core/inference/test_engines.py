"""Tests of engines: equal images from each, the choice among them, and stored files."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from networks import small_head, small_student
from torch import Tensor

from ivf_core.class_sets import MFNET, ClassSet
from ivf_core.cli import main
from ivf_core.defaults import ENGINES
from ivf_core.images.files import list_images, read_infrared, read_visible
from ivf_core.inference import artifacts, export
from ivf_core.inference import engine as engines
from ivf_core.inference.artifacts import ArtifactCache
from ivf_core.inference.engine import Engine, create_engine
from ivf_core.inference.options import EngineOptions
from ivf_core.models.architectures import STUDENTS
from ivf_core.models.checkpoints import FusionModel, load_model, save_model
from ivf_core.models.color import luma_chroma, small_chroma
from ivf_core.system.atomic import atomic_path

Make = Callable[..., Engine]


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Make:
    """Builder of one of the engines, on the CPU in fp32."""
    name = request.param
    pytest.importorskip(name)

    def make(model: FusionModel, **options: object) -> Engine:
        settings = {"engine": name, "device": "cpu", "precision": "fp32", **options}
        return create_engine(model, **settings)  # type: ignore[arg-type]

    return make


def random_pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    visible = random.integers(0, 256, (height, width, 3), np.uint8)
    return visible, random.integers(0, 256, (height, width), np.uint8)


@pytest.fixture(scope="module", params=STUDENTS)
def any_model(request: pytest.FixtureRequest) -> FusionModel:
    """Model of each architecture, with random weights instead of zeros."""
    torch.manual_seed(1)
    student = small_student(request.param, 8)
    for parameter in student.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    head = small_head(request.param, student, len(MFNET))
    for network in (student, head):
        network.eval().requires_grad_(False)
    return FusionModel(student, head, MFNET, name=request.param)


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (16, 16), (17, 18), (31, 200)])
def test_same_images(make: Make, any_model: FusionModel, size: tuple[int, int]) -> None:
    engine = make(any_model)
    reference = create_engine(any_model, engine="torch", device="cpu", precision="fp32")
    for seed in (0, 1):
        fused, labels, confidence = engine(*random_pair(*size, seed))
        expected_fused, expected_labels, _ = reference(*random_pair(*size, seed))
        assert confidence is None
        assert fused is not None
        assert labels is not None
        assert fused.dtype == labels.dtype == np.uint8
        assert cv2.absdiff(fused, expected_fused).max() <= 1
        assert labels.shape == (size[0] // 2, size[1] // 2)
        assert np.mean(labels == expected_labels) >= 0.99


@pytest.fixture(scope="module")
def decided_model(any_model: FusionModel) -> FusionModel:
    """Model of each architecture that is sure of some pixels and not of others."""
    logits = exact_logits(any_model, *random_pair(48, 64))
    head = copy.deepcopy(any_model.head)
    assert head is not None
    classify, mean = cast(torch.nn.Conv2d, head.classify), logits.mean((0, 2, 3))
    scale = 4 / (logits - logits.mean(1, keepdim=True)).std((0, 2, 3)).mean()
    subpixels = classify.out_channels // len(MFNET)
    with torch.no_grad():
        cast(Tensor, classify.bias).sub_(mean.repeat_interleave(subpixels))
        for parameter in classify.parameters():
            parameter.mul_(scale)
    return replace(any_model, head=head)


def exact_logits(model: FusionModel, visible: np.ndarray, infrared: np.ndarray) -> Tensor:
    """Compute the logits of a model in float64, 1 x C x H/2 x W/2, sizes rounded down."""
    planes = luma_chroma(torch.from_numpy(visible).permute(2, 0, 1)[None].double())
    luma, cr, cb = planes
    student, head = copy.deepcopy(model.student).double(), copy.deepcopy(model.head)
    assert head is not None
    with torch.no_grad():
        out = student(luma / 255, torch.from_numpy(infrared)[None, None].double() / 255)
        logits = head.double()(out.features, small_chroma(cr, cb, torch.float64))
    height, width = infrared.shape
    return logits[..., : height // 2, : width // 2]


@pytest.mark.parametrize("size", [(48, 64), (31, 45)])
def test_confidence_is_the_largest_probability(
    make: Make, decided_model: FusionModel, size: tuple[int, int]
) -> None:
    engine = make(decided_model)
    pair = random_pair(*size)
    expected = 255 * exact_logits(decided_model, *pair).softmax(1).amax(1)[0].numpy()
    assert np.ptp(expected) > 30
    found = engine(*pair, confidence=True)
    assert found.confidence is not None
    assert found.confidence.dtype == np.uint8
    assert np.abs(found.confidence - expected).max() <= 1
    plain = engine(*pair)
    np.testing.assert_array_equal(found.labels, plain.labels)
    np.testing.assert_array_equal(found.fused, plain.fused)


def test_results_are_the_callers_own(make: Make, tiny_model: FusionModel) -> None:
    engine = make(tiny_model)
    first = engine(*random_pair(32, 48, 0), confidence=True)
    kept = [part.copy() for part in first if part is not None]
    second = engine(*random_pair(32, 48, 1), confidence=True)
    for part, same in zip(first, kept, strict=True):
        assert part is not None
        assert part.flags.c_contiguous
        np.testing.assert_array_equal(part, same)
    assert not np.array_equal(first[0], second[0])  # type: ignore[arg-type]


def test_only_wanted_results_are_returned(make: Make, tiny_model: FusionModel) -> None:
    engine = make(tiny_model)
    everything = engine(*random_pair(32, 48), confidence=True)
    for name, expected in everything._asdict().items():
        choice = {other: other == name for other in everything._fields}
        found = engine(*random_pair(32, 48), **choice)
        assert [part is not None for part in found] == list(choice.values())
        np.testing.assert_array_equal(getattr(found, name), expected)
    headless = make(FusionModel(tiny_model.student))
    found = headless(*random_pair(32, 48), confidence=True)
    assert found[1:] == (None, None)
    np.testing.assert_array_equal(found.fused, everything.fused)
    assert headless(*random_pair(32, 48), fused=False, confidence=True) == (None, None, None)


def test_strided_and_read_only_images(make: Make, tiny_model: FusionModel) -> None:
    engine = make(tiny_model)
    visible, infrared = random_pair(32, 48)
    expected = engine(visible[:, ::-1].copy(), infrared)
    infrared.flags.writeable = False
    found = engine(visible[:, ::-1], infrared)
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, other)


def test_published_images_are_reproduced(make: Make, data: Path) -> None:
    root = data / "sage_m3fd"
    engine = make(load_model(root / "sage_student_published.pt"))
    published = list_images(root / "fused_published")
    assert len(published) == 3
    for name, path in published.items():
        fused = engine(
            read_visible(root / "visible" / f"{name}.png"),
            read_infrared(root / "infrared" / f"{name}.png"),
        ).fused
        difference = cv2.absdiff(fused, read_visible(path))
        assert difference.max() <= 1, name
        assert difference.mean() < 1e-4, name


@pytest.mark.parametrize(("weights", "folder", "step"), [
    ("clear", "msrs", 70), ("clear", "roadscene", 20), ("sage", "msrs", 70),
])  # fmt: skip
def test_auto_precision_keeps_real_images(
    make: Make, data: Path, weights: str, folder: str, step: int
) -> None:
    model = load_model(weights)
    engine, reference = make(model, precision="auto"), make(model)
    visible = list_images(data / folder / "visible")
    infrared = list_images(data / folder / "infrared")
    for name in list(visible)[::step]:
        pair = read_visible(visible[name]), read_infrared(infrared[name])
        difference = cv2.absdiff(engine(*pair)[0], reference(*pair)[0])
        assert np.percentile(difference, 99.9) <= 2, (name, engine.precision)


def test_auto_takes_torch_only_where_it_is_alone(
    tiny_model: FusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "installed_engines", lambda: ["torch"])
    assert create_engine(tiny_model, device="cpu").name == "torch"
    monkeypatch.undo()
    pytest.importorskip("openvino")
    assert create_engine(tiny_model, device="cpu").name in ("openvino", "onnxruntime")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorflow"}, "engine 'tensorflow': expected auto or one of torch"),
        ({"precision": "fp8"}, "precision 'fp8': expected auto or one of fp32"),
        ({"engine": "torch", "device": "tpu"}, "'tpu': expected auto, cpu, cuda or cuda:N"),
        ({"engine": "torch", "device": "cpu", "precision": "fp16"}, "has fp32 and bf16 on a CPU"),
    ],
)
def test_unknown_names(tiny_model: FusionModel, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_engine(tiny_model, **options)  # type: ignore[arg-type]


def test_openvino_rejects_a_precision_that_the_processor_lacks(
    tiny_model: FusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO itself computes in fp32 without a word, or fails when it compiles."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(ValueError, match=r"'bf16': OpenVINO has fp32, .*on this cpu"):
        create_engine(tiny_model, engine="openvino", precision="bf16", device="cpu")


def test_unknown_device(make: Make, tiny_model: FusionModel) -> None:
    with pytest.raises(ValueError, match="device 'cuda:99'"):
        make(tiny_model, device="cuda:99")


def test_missing_engine(tiny_model: FusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed_engines", lambda: ["torch"])
    with pytest.raises(ValueError, match="'openvino' is not installed: pip install openvino "):
        create_engine(tiny_model, engine="openvino")


# Stored files


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache")


def test_artifacts_are_built_once(cache: ArtifactCache) -> None:
    builds: list[bytes] = []

    def build() -> bytes:
        builds.append(b"content")
        return b"content"

    assert cache.get({"size": [1, 2]}, build) == b"content"
    assert cache.get({"size": [1, 2]}, build) == b"content"
    assert len(builds) == 1
    cache.get({"size": [2, 1]}, build)
    assert len(builds) == 2
    cache.discard({"size": [2, 1]})
    cache.get({"size": [2, 1]}, build)
    assert len(builds) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data[:-3] + b"xyz",
        lambda data: data.replace(b'"b"', b'"c"'),
        lambda data: b"x" + data[1:],
    ],
)
def test_damaged_artifacts_are_built_again(
    cache: ArtifactCache, damage: Callable[[bytes], bytes]
) -> None:
    cache.get({"a": "b"}, lambda: b"first")
    (path,) = cache.directory.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get({"a": "b"}, lambda: b"second") == b"second"
    assert cache.get({"a": "b"}, lambda: b"third") == b"second"


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ArtifactCache(tmp_path / "file" / "cache")
    assert cache.get({}, lambda: b"content") == b"content"


def test_openvino_starts_from_stored_files(
    tiny_model: FusionModel, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from ivf_core.inference.openvino_engine import OpenVinoEngine

    options = EngineOptions("cpu", cache=cache)

    first = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    # From here on nothing can be exported or compiled again.
    monkeypatch.setattr(export, "export_onnx", None)
    monkeypatch.setattr(OpenVinoEngine, "_compile", None)
    second = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    for part, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(part, other)
    with pytest.raises(TypeError):
        OpenVinoEngine(tiny_model, options)(*random_pair(48, 32))
    with pytest.raises(TypeError):
        OpenVinoEngine(load_model("sage"), options)


def test_blob_that_openvino_rejects(tiny_model: FusionModel, cache: ArtifactCache) -> None:
    pytest.importorskip("openvino")
    from ivf_core.inference.openvino_engine import OpenVinoEngine

    options = EngineOptions("cpu", cache=cache)

    first = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    for path in cache.directory.iterdir():
        key = path.read_bytes()[47:].split(b"\n", 1)[0]
        if json.loads(key)["kind"] == "openvino":
            cache.discard(json.loads(key))
            cache.get(json.loads(key), lambda: b"whole, but no model")
    second = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    for part, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(part, other)


def test_blob_of_another_size(tiny_model: FusionModel, cache: ArtifactCache) -> None:
    """A stored model that loads, but is not the one asked for, is compiled again."""
    pytest.importorskip("openvino")
    from ivf_core.inference.openvino_engine import OpenVinoEngine

    options = EngineOptions("cpu", cache=cache)
    expected = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    OpenVinoEngine(tiny_model, options)(*random_pair(48, 32))
    contents = {}
    for path in cache.directory.iterdir():
        key, content = path.read_bytes()[47:].split(b"\n", 1)
        if json.loads(key)["kind"] == "openvino":
            contents[tuple(json.loads(key)["size"])] = json.loads(key), content
    key, _ = contents[32, 48]
    cache.discard(key)
    cache.get(key, lambda: contents[48, 32][1])
    found = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("forged", [b"", b"no graph", b"\x08\x07"])
def test_stored_graph_that_is_none(
    tiny_model: FusionModel, cache: ArtifactCache, forged: bytes
) -> None:
    pytest.importorskip("openvino")
    from ivf_core.inference.openvino_engine import OpenVinoEngine

    options = EngineOptions("cpu", cache=cache)
    expected = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    for path in list(cache.directory.iterdir()):
        key = json.loads(path.read_bytes()[47:].split(b"\n", 1)[0])
        cache.discard(key)
        if key["kind"] == "onnx":
            cache.get(key, lambda: forged)
    found = OpenVinoEngine(tiny_model, options)(*random_pair(32, 48))
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, other)


def test_a_cache_that_others_can_write_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries of the cache are code that a start runs: nobody else may have written them."""
    cache = ArtifactCache(tmp_path / "shared")
    assert cache.get({"a": 1}, lambda: b"first") == b"first"
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    cache.directory.chmod(0o777)
    for content in (b"second", b"third"):
        assert cache.get({"a": 1}, lambda content=content: content) == content
    assert [r.getMessage() for r in caplog.records] == [
        f"cache '{cache.directory}': other users can write it, so it is not used, and every start "
        "compiles again; chmod o-w it, or set IVF_CACHE to a folder of your own"
    ]
    cache.directory.chmod(0o755)
    assert cache.get({"a": 1}, lambda: b"fourth") == b"first"


def test_oldest_artifacts_go(cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_KEPT_BYTES", 2500)
    for number in range(4):
        cache.get({"n": number}, lambda: bytes(1000))
        (newest,) = (p for p in cache.directory.iterdir() if b'"n": %d' % number in p.read_bytes())
        os.utime(newest, (number, number))
    kept = sorted(int(p.stat().st_mtime) for p in cache.directory.iterdir())
    assert kept == [2, 3]


def test_artifacts_of_killed_writers_go(cache: ArtifactCache) -> None:
    cache.get({"n": 0}, lambda: b"first")
    leftover = cache.directory / f".{'0' * 32}.abcdefgh.bin"
    leftover.touch()
    with atomic_path(cache.directory / f"{'1' * 32}.bin") as temporary:
        cache.get({"n": 1}, lambda: b"second")
        assert temporary.exists()
    assert not leftover.exists()


def test_exports_in_two_threads(tiny_model: FusionModel) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(export.export_onnx, tiny_model) for _ in range(4)]
        assert len({job.result() for job in jobs}) == 1


# The exported file


def test_export_runs_elsewhere(any_model: FusionModel, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path, weights = tmp_path / "fusion.onnx", tmp_path / "any.safetensors"
    save_model(any_model, weights)
    assert main(["export", "--weights", str(weights), "--output", str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["visible", "infrared"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert ClassSet.from_json(metadata["class_set"]) == load_model(weights).class_set
    assert metadata["label_stride"] == "2"
    json.loads(metadata.get("notes", "{}"))
    reference = create_engine(load_model(weights), engine="torch", precision="fp32")
    for size in ((32, 48), (61, 33)):
        visible, infrared = random_pair(*size)
        found = session.run(None, {"visible": visible[None], "infrared": infrared[None]})
        fused, labels, confidence = (part[0] for part in found)
        expected = reference(visible, infrared, confidence=True)
        assert cv2.absdiff(fused, expected.fused).max() <= 1
        assert np.mean(labels == expected.labels) >= 0.99
        assert cv2.absdiff(confidence, expected.confidence).max() <= 1


def test_engines_need_all_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engines.importlib.util, "find_spec", lambda name: None if name == "onnx" else object()
    )
    assert engines.installed_engines() == ["torch", "openvino"]


def test_export_of_nothing(tiny_model: FusionModel) -> None:
    with pytest.raises(ValueError, match="at least one output"):
        export.export_onnx(FusionModel(tiny_model.student), fused=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_recorded_graphs_equal_launched_kernels(
    any_model: FusionModel, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = create_engine(any_model, engine="torch", device="cuda", precision="fp32")
    launched = create_engine(any_model, engine="torch", device="cuda", precision="fp32")
    monkeypatch.setattr(launched, "_recording", lambda *_: None)
    for seed in (0, 1):
        for part, expected in zip(
            recorded(*random_pair(*size, seed)), launched(*random_pair(*size, seed)), strict=True
        ):
            np.testing.assert_array_equal(part, expected)
    assert all(recorded._recorded.values())  # type: ignore[attr-defined]
