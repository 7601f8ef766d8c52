"""Batches of arrays and tensors: the results of single pairs, and errors that name the input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from replays import drive

from ivf_core.cli import main
from ivf_core.images.registration import Registration
from ivf_core.inference import FusionPipeline, ImagePair
from ivf_core.inference.export import export_onnx
from ivf_core.inference.export_check import check_export
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.weights_files import open_weights

ROOT = Path(__file__).parents[3]
FRAMES = list(drive(3))
VISIBLE = np.stack([frame.visible for frame in FRAMES])
INFRARED = np.stack([frame.infrared for frame in FRAMES])


@pytest.fixture(scope="module")
def pipeline(tiny_model: FusionModel) -> FusionPipeline:
    return FusionPipeline(tiny_model, engine="torch", device="cpu", precision="fp32")


class TestArrays:
    @pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
    @pytest.mark.parametrize("deep", [False, True])
    def test_a_batch_is_its_pairs(self, tiny_model: FusionModel, engine: str, deep: bool) -> None:
        pytest.importorskip(engine)
        thermal = INFRARED.astype(np.uint16) * 40 + 7000 if deep else INFRARED
        stamps = [1.0, 1.1, 1.2]
        batches, single = (
            FusionPipeline(tiny_model, engine=engine, device="cpu", precision="fp32")
            for _ in range(2)
        )
        batch = batches.run_batch(VISIBLE, thermal, seconds=stamps, confidence=True)
        for number, stamp in enumerate(stamps):
            pair = ImagePair(VISIBLE[number], thermal[number], stamp)
            result = single(pair, confidence=True)
            # The kernels for a batch may add in another order: a value on the edge is rounded.
            fused = np.abs(batch.fused[number].astype(int) - result.fused)
            assert fused.max() <= 1
            assert (batch.labels[number] == result.labels).mean() > 0.99
            np.testing.assert_array_equal(batch.infrared[number], result.infrared)
        assert batch.confidence.shape == batch.labels.shape == (3, 84, 96)

    def test_only_what_is_wanted(self, pipeline: FusionPipeline) -> None:
        batch = pipeline.run_batch(VISIBLE[::-1], INFRARED[::-1], labels=False)
        assert batch.labels is None
        assert batch.confidence is None
        assert batch.fused.shape == VISIBLE.shape


class TestTensors:
    def test_tensors_give_tensors(self, pipeline: FusionPipeline) -> None:
        expected = pipeline.run_batch(VISIBLE, INFRARED)
        batch = pipeline.run_batch(torch.from_numpy(VISIBLE), torch.from_numpy(INFRARED))
        assert batch.fused.device == torch.device("cpu")
        np.testing.assert_array_equal(batch.fused.numpy(), expected.fused)
        np.testing.assert_array_equal(batch.labels.numpy(), expected.labels)
        assert batch.infrared.dtype == torch.uint8

    def test_cameras_of_one_level_are_absent_in_both(self, pipeline: FusionPipeline) -> None:
        visible, infrared = VISIBLE.copy(), INFRARED.copy()
        visible[0], infrared[1] = 255, 255
        visible[2], infrared[2] = 90, 200
        expected = pipeline.run_batch(visible, infrared)
        batch = pipeline.run_batch(torch.from_numpy(visible), torch.from_numpy(infrared))
        np.testing.assert_array_equal(batch.infrared.numpy(), expected.infrared)
        np.testing.assert_array_equal(batch.fused.numpy(), expected.fused)
        np.testing.assert_array_equal(batch.labels.numpy(), expected.labels)
        assert [int(thermal.max()) for thermal in expected.infrared] == [INFRARED[0].max(), 0, 200]

    def test_tensors_to_prepare(self, tiny_model: FusionModel) -> None:
        """Deep counts and a registration need the CPU; the results are tensors all the same."""
        registration = Registration((1.0, 0, 2.0, 0, 1, 1, 0, 0, 1), (192, 168), (192, 168))
        pipeline = FusionPipeline(
            tiny_model, engine="torch", device="cpu", precision="fp32", registration=registration
        )
        thermal = INFRARED.astype(np.float32)
        batch = pipeline.run_batch(torch.from_numpy(VISIBLE), torch.from_numpy(thermal))
        expected = pipeline.run_batch(VISIBLE, thermal)
        np.testing.assert_array_equal(batch.infrared.numpy(), expected.infrared)
        np.testing.assert_array_equal(batch.fused.numpy(), expected.fused)

    def test_another_engine(self, tiny_model: FusionModel) -> None:
        pytest.importorskip("onnxruntime")
        pipeline = FusionPipeline(tiny_model, engine="onnxruntime", device="cpu", precision="fp32")
        with pytest.raises(ValueError, match=r'has onnxruntime: FusionPipeline.*engine="torch"'):
            pipeline.run_batch(torch.from_numpy(VISIBLE), torch.from_numpy(INFRARED))

    def test_another_device(self, pipeline: FusionPipeline) -> None:
        elsewhere = torch.from_numpy(VISIBLE).to("meta")
        with pytest.raises(ValueError, match=r"visible is on meta.*pipeline on cpu.*\.to\(\)"):
            pipeline.run_batch(elsewhere, torch.from_numpy(INFRARED))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_on_cuda(self, tiny_model: FusionModel) -> None:
        cpu = FusionPipeline(tiny_model, engine="torch", device="cpu", precision="fp32")
        cuda = FusionPipeline(tiny_model, engine="torch", device="cuda", precision="fp32")
        images = [torch.from_numpy(images).cuda() for images in (VISIBLE, INFRARED)]
        batch = cuda.run_batch(*images)
        assert batch.fused.device == images[0].device
        expected = cpu.run_batch(VISIBLE, INFRARED)
        assert np.abs(batch.fused.cpu().numpy().astype(int) - expected.fused).max() <= 1


@pytest.mark.parametrize(
    ("visible", "infrared", "message"),
    [
        (VISIBLE.transpose(0, 3, 1, 2), INFRARED, r"channels come last: visible\.transpose"),
        (VISIBLE[0], INFRARED[0], r"a batch of one: visible\[None\]"),
        (VISIBLE.astype(np.float32), INFRARED, "array float32 .* expected uint8 N x H x W x 3"),
        (VISIBLE, INFRARED[..., None], r"needs no axis: infrared\[\.\.\., 0\]"),
        (VISIBLE, INFRARED.astype(np.int32), "array int32 .* expected uint8, uint16 or float32"),
        (VISIBLE[:2], INFRARED, "visible has 2 images and infrared 3"),
        (VISIBLE[:0], INFRARED[:0], "at least one"),
        (VISIBLE[:, :8], INFRARED[:, :8], "visible images are 192x8, expected at least 16x16"),
        (VISIBLE, torch.from_numpy(INFRARED), "two arrays or two tensors"),
        (VISIBLE.tolist(), INFRARED, "images are list, expected a NumPy array or a PyTorch tensor"),
    ],
)
def test_bad_batches_are_named(
    pipeline: FusionPipeline, visible: object, infrared: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.run_batch(visible, infrared)
    with pytest.raises(ValueError, match="seconds has 1 stamps for 3 pairs"):
        pipeline.run_batch(VISIBLE, INFRARED, seconds=[0.0])


class TestHub:
    def test_street(self) -> None:
        graph = torch.hub.load(str(ROOT), "street", source="local", device="cpu")
        images = torch.from_numpy(VISIBLE), torch.from_numpy(INFRARED)
        fused, labels, confidence = graph(*images)
        assert fused.shape == VISIBLE.shape
        assert labels.shape == (3, 84, 96)
        assert confidence is None
        assert "person" in graph.class_set.names
        expected = FusionPipeline("street", engine="torch", device="cpu", precision="fp32")
        batch = expected.run_batch(VISIBLE, INFRARED)  # in another layout of memory
        assert np.abs(fused.numpy().astype(int) - batch.fused).max() <= 1

    def test_every_entry(self) -> None:
        for name, classes in (("clear", 9), ("fast", 9), ("sage", 0)):
            graph = torch.hub.load(str(ROOT), name, source="local", device="cpu")
            assert len(graph.class_set or ()) == classes
        pipeline = torch.hub.load(str(ROOT), "pipeline", "sage", source="local", device="cpu")
        assert pipeline.class_set is None


class TestExport:
    def test_metadata_and_names(self, tiny_model: FusionModel) -> None:
        graph = onnx.load_model_from_string(export_onnx(tiny_model))
        entries = {entry.key: entry.value for entry in graph.metadata_props}
        assert json.loads(entries["class_names"])[2] == "person"
        assert len(json.loads(entries["class_colors"])) == 9
        assert entries["license"] == "Apache-2.0"
        ports = json.loads(entries["inputs"]) | json.loads(entries["outputs"])
        assert list(ports) == ["visible", "infrared", "fused", "labels", "confidence"]
        assert ports["visible"]["layout"] == "N x H x W x 3"
        assert [entry.name for entry in graph.graph.input] == ["visible", "infrared"]
        assert all(entry.doc_string for entry in (*graph.graph.input, *graph.graph.output))
        assert graph.producer_version == entries["version"]

    @pytest.mark.parametrize("name", ["sage", "fast", "clear", "street"])
    def test_shipped_graphs_describe_themselves(self, name: str) -> None:
        weights = open_weights(name)
        graph = onnx.load(weights.path.with_suffix(".onnx"), load_external_data=False)
        entries = {entry.key: entry.value for entry in graph.metadata_props}
        assert entries["digest"] == weights.digest
        assert json.loads(entries["inputs"])["infrared"]["range"] == "0..255"
        outputs = [entry.name for entry in graph.graph.output]
        assert list(json.loads(entries["outputs"])) == outputs
        if weights.class_set is not None:
            assert tuple(json.loads(entries["class_names"])) == weights.class_set.names

    def test_check_accepts_the_export_alone(self, tiny_model: FusionModel) -> None:
        pytest.importorskip("onnxruntime")
        content = export_onnx(tiny_model)
        check = check_export(content, tiny_model)
        assert check.fused_levels is not None
        assert check.fused_levels <= 1
        assert "class ids equal" in str(check)
        graph = onnx.load_model_from_string(content)
        for part in graph.graph.initializer:
            if part.name.endswith("weight") and len(part.dims) == 4:
                changed = -onnx.numpy_helper.to_array(part)
                part.CopyFrom(onnx.numpy_helper.from_array(changed, part.name))
        with pytest.raises(ValueError, match="computes something else"):
            check_export(graph.SerializeToString(), tiny_model)
        with pytest.raises(ValueError, match="ONNX Runtime does not take"):
            check_export(content[:1000], tiny_model)

    def test_command(
        self, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("onnxruntime")
        output = tmp_path / "tiny.onnx"
        words = ["export", "--weights", str(tiny_weights), "--output", str(output)]
        assert main([*words, "--check", "--no-fused"]) == 0
        text = capsys.readouterr().out
        assert "ONNX Runtime against PyTorch on 4 pairs" in text
        assert "fused image" not in text
        assert main(words) == 0  # its own file is replaced
