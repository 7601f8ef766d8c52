"""Test SAM from a checkpoint: published architectures, the package's masks, bad files."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam_models import random_image

from ivf_core.training.masks.sam import (
    SAM_MODELS,
    SamArchitecture,
    SamError,
    SamMasks,
    build_sam,
    load_sam,
)
from ivf_core.training.sage.smoke import TINY_SAM, save_tiny_sam

segment_anything = pytest.importorskip("segment_anything")

# Random weights rate their own masks at random, and most of these share a box: keep them all.
ALL = dict(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0, crop_n_layers=1,
           crop_n_points_downscale_factor=2, min_mask_region_area=20, box_nms_thresh=1.0,
           crop_nms_thresh=1.0)  # fmt: skip


@pytest.mark.parametrize("name", SAM_MODELS)
def test_published_architectures_are_inferred_from_their_tensors(name: str) -> None:
    with torch.device("meta"):
        published = segment_anything.sam_model_registry[name]()
        architecture = SamArchitecture.from_state_dict(published.state_dict())
        built = build_sam(architecture)
    assert (architecture.channels, architecture.blocks) == SAM_MODELS[name]
    assert str(built) == str(published)  # modules, their sizes and the layer norms' epsilon
    expected = published.state_dict()
    assert {k: v.shape for k, v in built.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }
    for block, other in zip(
        built.image_encoder.blocks, published.image_encoder.blocks, strict=True
    ):
        assert block.window_size == other.window_size
        assert block.attn.num_heads == other.attn.num_heads
    attention = "final_attn_token_to_image"
    assert (
        getattr(built.mask_decoder.transformer, attention).num_heads
        == getattr(published.mask_decoder.transformer, attention).num_heads
    )
    assert built.image_encoder.img_size == published.image_encoder.img_size == 1024


def test_a_checkpoint_computes_the_same_as_the_saved_model(tmp_path: Path) -> None:
    saved = save_tiny_sam(tmp_path / "sam.pth")
    loaded = load_sam(tmp_path / "sam.pth")
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded.image_encoder(image), saved.image_encoder(image))
    assert SamArchitecture.from_state_dict(loaded.state_dict()) == TINY_SAM
    assert torch.equal(loaded.pixel_mean.ravel(), torch.tensor([123.675, 116.28, 103.53]))
    assert torch.equal(loaded.pixel_std.ravel(), torch.tensor([58.395, 57.12, 57.375]))


def test_masks_are_those_of_the_package_largest_first(tmp_path: Path) -> None:
    save_tiny_sam(tmp_path / "sam.pth")
    sam = load_sam(tmp_path / "sam.pth")
    image = random_image(1)
    records = segment_anything.SamAutomaticMaskGenerator(sam, **ALL).generate(image)
    expected = sorted(records, key=lambda record: -record["area"])
    assert len(expected) > 4
    assert len({record["area"] for record in expected}) > 2
    found = SamMasks(sam, 3, **ALL).masks(image)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, [r["segmentation"] for r in expected[:3]])
    many = SamMasks(sam, 1000, **ALL).masks(image)
    np.testing.assert_array_equal(many, [r["segmentation"] for r in expected])


def test_published_order_of_colours_is_an_option(tmp_path: Path) -> None:
    save_tiny_sam(tmp_path / "sam.pth")
    sam = load_sam(tmp_path / "sam.pth")
    image = random_image(2)
    image[..., 0] = 255 - image[..., 2]
    swapped = SamMasks(sam, 20, bgr=True, **ALL).masks(image)
    np.testing.assert_array_equal(swapped, SamMasks(sam, 20, **ALL).masks(image[..., ::-1].copy()))
    plain = SamMasks(sam, 20, **ALL).masks(image)
    assert plain.shape != swapped.shape or (plain != swapped).any()


def test_an_image_without_any_mask(tmp_path: Path) -> None:
    """No mask is found where SAM rates all at -10; version 1.0 of the package fails there."""
    sam = save_tiny_sam(tmp_path / "sam.pth")
    torch.nn.init.constant_(sam.mask_decoder.iou_prediction_head.layers[-1].bias, -10)
    options = {**ALL, "pred_iou_thresh": 0.5}
    assert SamMasks(sam, 5, **options).masks(random_image(1)).shape == (
        0,
        *random_image(1).shape[:2],
    )


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    save_tiny_sam(tmp_path / "sam.pth")
    with pytest.raises(SamError, match=r"expected model vit_b, found none of these: 16 channels"):
        load_sam(tmp_path / "sam.pth", "vit_b")


class Intruder:
    """Object that runs code when it is unpickled without `weights_only`."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_bad_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    with pytest.raises(SamError, match="no such file"):
        load_sam(path)
    path.write_bytes(pickle.dumps(Intruder(tmp_path / "intruded"), protocol=2))
    with pytest.raises(SamError, match="not a plain PyTorch state dict"):
        load_sam(path)
    assert not (tmp_path / "intruded").exists()
    torch.save({"epoch": 3}, path)
    with pytest.raises(SamError, match="expected a state dict of tensors"):
        load_sam(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(SamError, match=r"not the tensors of a SAM: .*patch_embed"):
        load_sam(path)
    state = build_sam(TINY_SAM).state_dict()
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, path)
    with pytest.raises(SamError, match=r"(?s)does not fit SAM: .*Missing key.*iou_token"):
        load_sam(path)
    torch.save({**build_sam(TINY_SAM).state_dict(), "extra": torch.zeros(1)}, path)
    with pytest.raises(SamError, match=r"(?s)does not fit SAM: .*Unexpected key.*extra"):
        load_sam(path)


def test_all_blocks_attending_globally(tmp_path: Path) -> None:
    architecture = replace(TINY_SAM, window=0, global_blocks=(0, 1))
    torch.save(build_sam(architecture).state_dict(), tmp_path / "sam.pth")
    state = load_sam(tmp_path / "sam.pth").state_dict()
    assert SamArchitecture.from_state_dict(state) == architecture


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(SamError, match=r"extra 'training'.*pip install segment-anything"):
        build_sam(TINY_SAM)
