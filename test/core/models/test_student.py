"""Tests of the students, the head and the fusion graph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from networks import small_head, small_student
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ivf_core.class_sets import MFNET, STREET
from ivf_core.models.architectures import STUDENTS
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.color import luma_chroma, recolor
from ivf_core.models.graph import FusionGraph, fold_batch_norm
from ivf_core.models.segmentation import SegmentationHead
from ivf_core.models.street import StreetHead, StreetStudent
from ivf_core.models.student import FastStudent, FusionStudent, MergeUp


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, *inputs: object) -> int:
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() // 2


def test_student_has_the_published_architecture() -> None:
    student = FusionStudent().eval()
    assert parameters(student) == 135_617
    for merge in student.merges:
        merge.commuted = False  # in the order of the paper
    image = torch.rand(1, 1, 64, 64)
    assert macs(student, image, image) / 64**2 == pytest.approx(65_060, rel=1e-3)


def test_fast_student_is_a_nineteenth_of_the_published_one() -> None:
    image = torch.rand(1, 1, 64, 64)
    fast = macs(FastStudent().eval(), image, image)
    assert macs(FusionStudent().eval(), image, image) / fast == pytest.approx(19, rel=0.02)
    assert fast / 64**2 == pytest.approx(3_410, rel=0.001)
    assert parameters(FastStudent()) == 121_452


def test_street_is_within_its_budget() -> None:
    """1.2 k multiply-accumulates a pixel for the student, 3 k for both."""
    image, chroma = torch.rand(1, 1, 128, 128), torch.rand(1, 2, 32, 32)
    student, head = StreetStudent().eval(), StreetHead(len(STREET)).eval()
    alone = macs(student, image, image) / 128**2
    both = alone + macs(head, student(image, image).features, chroma) / 128**2
    assert alone == pytest.approx(628, rel=0.001)
    assert both == pytest.approx(2_684, rel=0.001)
    assert parameters(student) + parameters(head) == 594_976


def test_merging_commutes_with_upsampling() -> None:
    torch.manual_seed(0)
    merge = MergeUp(3 + 5, 4).eval().double()
    coarse, fine = torch.rand(2, 3, 7, 9).double(), torch.rand(2, 5, 15, 18).double()
    commuted = merge(coarse, fine)
    merge.commuted = False
    torch.testing.assert_close(commuted, merge(coarse, fine))


@pytest.mark.parametrize("architecture", STUDENTS)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (37, 50), (17, 16), (18, 23)])
def test_feature_sizes_at_any_input_size(architecture: str, height: int, width: int) -> None:
    student = small_student(architecture).eval()
    out = student(torch.rand(2, 1, height, width), torch.rand(2, 1, height, width))
    assert out.fused.shape == (2, 1, height, width)

    def size(stride: int) -> tuple[int, int]:
        if student.layout.round_up:
            return -(-height // stride), -(-width // stride)
        return height // stride, width // stride

    for feature, channels, stride in zip(
        out.features, student.feature_channels, student.layout.strides, strict=True
    ):
        assert feature.shape == (2, channels, *size(stride))
    head = small_head(architecture, student, 5).eval()
    chroma = torch.rand(2, 2, -(-height // 4), -(-width // 4))
    logits = head(out.features, chroma)
    assert logits.shape == (2, 5, *size(2))
    ids = head.class_ids(out.features, chroma)
    assert torch.equal(ids, logits.argmax(dim=1).to(torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8, 8)}, "expected three"),
        ({"widths": (8, 0, 8)}, "at least 1"),
        ({"convolutions": (1, 1, 1, 1)}, "expected five"),
        ({"convolutions": (0, 0, 1, 0, 0)}, "second and third at least 1"),
        ({"convolutions": (0, 1, 1, -1, 0)}, "expected five"),
    ],
)
def test_impossible_fast_students(options: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastStudent(**options)


@pytest.mark.parametrize("architecture", ["fast", "street"])
def test_students_of_filters_start_as_the_mean(architecture: str) -> None:
    visible, infrared = torch.rand(2, 1, 1, 33, 46, dtype=torch.float64)
    fused = small_student(architecture).eval().double()(visible, infrared).fused
    torch.testing.assert_close(fused, (visible + infrared) / 2)


def test_filters_of_the_fast_student_are_local() -> None:
    """Changes in one corner of the image change the result in that corner only."""
    torch.manual_seed(0)
    student = small_student("fast").eval()
    assert isinstance(student, FastStudent)
    for decoder in student.decoders:
        nn.init.normal_(decoder.weight)
    visible, infrared = torch.rand(1, 1, 129, 131), torch.rand(1, 1, 129, 131)
    changed = infrared.clone()
    changed[..., -1, -1] = 1 - changed[..., -1, -1]
    off = (student(visible, changed).fused - student(visible, infrared).fused).abs()[0, 0]
    assert off[-1, -1] > 0
    assert off[:40, :40].max() == 0
    weights = off.sum(0), off.sum(1)
    assert [int(w.argmax()) for w in weights] == pytest.approx([130, 128], abs=6)


@pytest.mark.parametrize("architecture", STUDENTS)
def test_a_class_is_raised_everywhere(architecture: str) -> None:
    torch.manual_seed(0)
    student = small_student(architecture).eval().double()
    head = small_head(architecture, student, 3).eval().double()
    features = student(*torch.rand(2, 1, 1, 33, 46, dtype=torch.float64)).features
    before = head(features)
    head.raise_class(1, 2.5)
    expected = before + torch.tensor([0.0, 2.5, 0.0]).double().reshape(1, 3, 1, 1)
    torch.testing.assert_close(head(features), expected)


def test_head_is_within_its_budget() -> None:
    student, head = FusionStudent().eval(), SegmentationHead(len(MFNET)).eval()
    assert parameters(head) <= 800_000
    image = torch.rand(1, 1, 128, 128)
    features = student(image, image).features
    assert macs(head, features) <= 0.35 * macs(student, image, image)


def test_head_sees_a_whole_car() -> None:
    """Logits depend on pixels 100 away, half of a car that fills the image."""
    torch.manual_seed(0)
    head = SegmentationHead(3, [4] * 5, (8, 8, 8)).eval()
    head.scene = nn.Identity()  # the average over the whole image would see everything
    features = [
        torch.rand(1, 4, 512 // stride, 512 // stride, requires_grad=True)
        for stride in FusionStudent.layout.strides
    ]
    head(features)[0, :, 128, 128].sum().backward()
    gradient = features[4].grad
    assert gradient is not None
    rows = torch.nonzero(gradient.abs().sum((0, 1, 3))).flatten()
    assert rows.min() <= 256 - 100
    assert rows.max() >= 256 + 100


def test_luma_and_chroma_equal_opencv_to_the_bit() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 4096, 3), np.uint8)
    rgb[0, :2] = [[0, 0, 0], [255, 255, 255]]
    rgb[0, 2:5] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    expected = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    planes = luma_chroma(torch.from_numpy(rgb).permute(2, 0, 1)[None].float())
    for plane, channel in zip(planes, range(3), strict=True):
        np.testing.assert_array_equal(plane[0, 0].numpy(), expected[..., channel])


def test_recolouring_by_hand() -> None:
    fused = torch.tensor([0.5, 2.0]).reshape(1, 1, 1, 2)
    cr, cb = torch.tensor([255.0, 0.0]).reshape(1, 1, 1, 2), torch.full((1, 1, 1, 2), 127.5)
    # Cr = 1: R = 0.5 + 0.7015, above white; G = 0.5 - 0.357; B = 0.5.
    # Cr = 0: R = 2 - 0.7015, G = 2 + 0.357, B = 2: all white.
    expected = [[255, 255], [int(0.143 * 255 + 0.5), 255], [128, 255]]
    assert recolor(fused, cr, cb)[0, :, 0].tolist() == expected


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(1)
    student = FusionStudent(8).double()
    for _ in range(3):  # running statistics that are not the identity
        student(*torch.rand(2, 2, 1, 32, 32, dtype=torch.float64))
    student.eval()
    folded = fold_batch_norm(student)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
    images = torch.rand(2, 1, 1, 48, 48, dtype=torch.float64)
    torch.testing.assert_close(folded(*images).fused, student(*images).fused)


def test_graph_computes_only_wanted_outputs(tiny_model: FusionModel) -> None:
    graph = FusionGraph(tiny_model)
    visible = torch.randint(0, 256, (1, 33, 47, 3), dtype=torch.uint8)
    infrared = torch.randint(0, 256, (1, 33, 47), dtype=torch.uint8)
    fused, labels, confidence = graph(visible, infrared)
    assert confidence is None
    assert fused.shape == visible.shape
    assert labels.shape == (1, 16, 23)
    assert fused.dtype == labels.dtype == torch.uint8
    assert int(labels.max()) < len(MFNET)
    assert graph(visible, infrared, want_labels=False)[1] is None
    alone, same, _ = graph(visible, infrared, want_fused=False)
    assert alone is None
    assert torch.equal(same, labels)
    everything = graph(visible, infrared, want_confidence=True)
    assert torch.equal(everything[0], fused)
    assert torch.equal(everything[1], labels)
    assert everything[2].shape == labels.shape
    alone = graph(visible, infrared, want_fused=False, want_labels=False, want_confidence=True)
    assert alone[:2] == (None, None)
    assert torch.equal(alone[2], everything[2])
    headless = FusionGraph(FusionModel(tiny_model.student))
    assert torch.equal(headless(visible, infrared)[0], fused)
    assert headless(visible, infrared, want_confidence=True)[1:] == (None, None)
