"""FusionSAM: what SAM is given and gives, what learns, and any size of images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_pairs import SIZE, random_pair, size_of, thermal_pairs

from ivf_core.class_sets import CLASS_SETS, PST900, ClassSet
from ivf_core.models.color import luma_chroma, recolor_unrounded
from ivf_core.models.fusion_prompt import FusionPrompt
from ivf_core.models.fusionsam import FusionSam
from ivf_core.training.fusionsam.losses import fusion_loss
from ivf_core.training.fusionsam.weights import build_tokenizers
from ivf_core.training.masks.sam import SAM_MODELS, SamArchitecture, build_sam
from ivf_core.training.sage.smoke import TINY_SAM

pytest.importorskip("segment_anything")


def tiny(
    class_set: ClassSet = PST900, sam: SamArchitecture = TINY_SAM, **options: Any
) -> FusionSam:
    torch.manual_seed(0)
    first, second = build_tokenizers(8, 8, 32)
    architecture = replace(sam, outputs=len(class_set))
    prompt = FusionPrompt(8, 16, 2, 1, 8)
    parts: Any = (first, second)
    return FusionSam(parts, prompt, build_sam(architecture), class_set, **options)


def published(model: str, outputs: int) -> SamArchitecture:
    channels, blocks = SAM_MODELS[model]
    every = blocks // 4
    return SamArchitecture(
        channels=channels, blocks=blocks, heads={768: 12}.get(channels, 16), hidden=4 * channels,
        patch=16, grid=64, window=14, global_blocks=tuple(range(every - 1, blocks, every)),
        prompt_channels=256, mask_channels=16, decoder_blocks=2, decoder_hidden=2048,
        outputs=outputs, quality_layers=3, quality_hidden=256,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "encoder"), [("vit_b", 89_670_912), ("vit_l", 308_278_272), ("vit_h", 637_026_048)]
)
def test_sizes_of_sam(model: str, encoder: int) -> None:
    with torch.device("meta"):
        sam = build_sam(published(model, 3))
    assert size_of(sam.image_encoder.parameters()) == encoder
    assert size_of(sam.prompt_encoder.parameters()) == 6_220
    assert size_of(sam.mask_decoder.parameters()) == 4_058_340


@pytest.mark.parametrize(
    ("name", "decoder"), [("pst900", 4_338_982), ("mfnet", 4_900_266), ("fmb", 5_742_192)]
)
def test_sizes_of_fusionsam(name: str, decoder: int) -> None:
    """With SAM ViT-B, in the published sizes of FMP."""
    classes = CLASS_SETS[name]
    with torch.device("meta"):
        parts: Any = tuple(build_tokenizers(32, 64, 1024))
        sam = build_sam(published("vit_b", len(classes)))
        network = FusionSam(parts, FusionPrompt(64), sam, classes)
    assert size_of(sam.mask_decoder.parameters()) == decoder
    assert size_of(network.prompt.parameters()) == 1_015_307
    tokens = size_of(network.tokenizers.parameters())
    assert tokens == 2 * (534_400 + 1_133_825 + 16_576)
    assert size_of(network.parameters()) == 89_670_912 + 6_220 + decoder + 1_015_307 + tokens
    frozen = (sam.mask_decoder.iou_prediction_head, sam.mask_decoder.output_hypernetworks_mlps[0])
    unused = sum(size_of(part.parameters()) for part in frozen)
    trained = size_of(p for p in network.parameters() if p.requires_grad)
    assert trained == 6_220 + decoder - unused + 1_015_307


@pytest.mark.parametrize("size", [(32, 32), (60, 90), (130, 41)])
def test_shapes(size: tuple[int, int]) -> None:
    out = tiny()(*random_pair(size=size))
    assert out.main.shape == (2, 5, *size)
    assert out.auxiliary is None
    assert out.fused is not None
    assert out.fused.shape == (2, 1, *size)
    assert 0 <= out.fused.min() <= out.fused.max() <= 1
    assert out.features is not None
    assert out.features.shape == (2, 16, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize("box", [False, True])
@torch.no_grad()
def test_masks_are_those_of_sam(box: bool) -> None:
    """The package's own `Sam` gives these logits for the fused image and the prompts."""
    network = tiny(box=box).eval()
    visible, infrared = random_pair()
    _, cr, cb = luma_chroma((visible * 255).round())
    out = network.segment(visible, infrared)
    assert out.fused is not None
    assert out.features is not None
    image = 255 * recolor_unrounded(out.fused, cr, cb).clamp(0, 1)
    rows = 43  # 64 / 96 of SAM's side of 64 pixels
    small = F.interpolate(image, (rows, 64), mode="bilinear", antialias=True)
    # The plane of 16 x 24 cells on 11 x 16 of SAM's: 43 pixels are 10.75 cells.
    plane = network.prompt.prompt(out.features)
    plane = F.interpolate(plane, (11, 16), mode="bilinear", antialias=True)
    points = network.place_points(out.features, torch.Size(SIZE))
    assert points is not None
    for n in range(2):
        record = {
            "image": small[n],
            "original_size": SIZE,
            "point_coords": points[0][n : n + 1],
            "point_labels": points[1][n : n + 1],
            "mask_inputs": F.pad(plane[n : n + 1], (0, 0, 0, 5)),
        }
        if box:
            record["boxes"] = network.place_box(out.features, torch.Size(SIZE))[n : n + 1]
        (found,) = network.sam([record], multimask_output=True)
        low = found["low_res_logits"]
        whole = F.interpolate(low, (64, 64), mode="bilinear")[0, :, :rows]
        torch.testing.assert_close(out.main[n], whole, rtol=1e-3, atol=1e-4)


def test_prompts_are_placed_in_pixels_of_sam() -> None:
    """SAM's side is 64 for images of 64 x 96: cell (0, 23) has its centre at 94, 2 of the image."""
    network = tiny(points=2)
    features = torch.zeros(1, 16, 16, 24)
    features[0, 0, 0, 23], features[0, 0, 8, 2] = 2, 1
    placed = network.place_points(features, torch.Size(SIZE))
    assert placed is not None
    coordinates, labels = placed
    horizontal, vertical = 64 / 96, 43 / 64
    expected = [[94 * horizontal, 2 * vertical], [10 * horizontal, 34 * vertical]]
    # The encoder of prompts adds the half.
    torch.testing.assert_close(coordinates[0] + 0.5, torch.tensor(expected))
    assert labels.tolist() == [[1, 1]]
    features = torch.zeros(1, 16, 16, 24)
    features[0, 0, 2:6, 4:14] = 1
    features[0, 0, 2:6, 4:14] += torch.arange(40.0).view(4, 10)
    corners = network.place_box(features, torch.Size(SIZE)) + 0.5
    # The strongest 38 of 384 cells: the first two of the first row are not among them.
    expected_box = [16 * horizontal, 8 * vertical, 56 * horizontal, 24 * vertical]
    torch.testing.assert_close(corners[0], torch.tensor(expected_box))


def test_thermal_reaches_the_logits() -> None:
    network = tiny()
    visible, infrared = random_pair()
    infrared.requires_grad_(True)
    out = network(visible, infrared)
    for part in (out.main, out.fused):
        (gradient,) = torch.autograd.grad(part[0].square().sum(), infrared, retain_graph=True)
        assert gradient[0].abs().max() > 0
        assert gradient[1].abs().max() == 0
    assert not torch.equal(out.main, network(visible, infrared.flip(0)).main)


@pytest.mark.parametrize("train_tokens", [False, True])
@pytest.mark.parametrize("through_encoder", [False, True])
def test_only_what_is_named_learns(train_tokens: bool, through_encoder: bool) -> None:
    """A step changes neither SAM's image encoder nor, by default, the tokenizers."""
    network = tiny(train_tokens=train_tokens, through_encoder=through_encoder, box=True).train()
    assert not network.sam.image_encoder.training
    assert network.prompt.training
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    visible, infrared = random_pair()
    out = network(visible, infrared)
    assert out.fused is not None
    (out.main.square().mean() + out.fused.square().mean()).backward()
    optimizer.step()
    after = network.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    parts = {".".join(name.split(".")[:2]) for name in changed}
    assert {"sam.prompt_encoder", "sam.mask_decoder"} <= parts
    assert "sam.image_encoder" not in parts
    assert bool({part for part in parts if part.startswith("tokenizers")}) == train_tokens
    assert not [name for name in changed if "iou_prediction_head" in name]
    assert not [name for name in changed if "hypernetworks_mlps.0" in name]
    assert not [name for name in changed if "codebook" in name]


@torch.no_grad()
def test_training_and_test_take_the_same_path() -> None:
    network, images = tiny(), random_pair()
    trained, tested = network.train()(*images), network.eval()(*images)
    for a, b in zip(trained, tested, strict=True):
        assert (a is b is None) or torch.equal(a, b)


@torch.no_grad()
def test_options_of_the_latents_and_prompts() -> None:
    base = tiny()(*random_pair()).main
    for options in ({"quantized": False}, {"points": 0}, {"box": True}):
        assert not torch.equal(tiny(**options)(*random_pair()).main, base)  # type: ignore[arg-type]


@torch.no_grad()
def test_latents_are_codes() -> None:
    """With the same code for all latents nothing but rounding is left of the thermal image."""
    visible, infrared = random_pair()
    changes = []
    for quantized in (True, False):
        network = tiny(quantized=quantized, points=0)  # peaks of even features are rounding
        for tokenizer in network.tokenizers:
            embedding: Any = tokenizer.codebook.embedding  # type: ignore[union-attr]
            embedding.copy_(embedding[:1].expand_as(embedding))
        before, after = (network(visible, x).main for x in (infrared, 1 - infrared))
        changes.append((after - before).abs().max())
    assert changes[0] < 1e-3 * changes[1]


def test_parts_that_do_not_fit() -> None:
    parts: Any = tuple(build_tokenizers(8, 8, 32))
    with pytest.raises(ValueError, match="SAM has 3 outputs, expected 5"):
        FusionSam(parts, FusionPrompt(8, 16, 2, 1), build_sam(TINY_SAM), PST900)
    sam = build_sam(replace(TINY_SAM, outputs=5))
    with pytest.raises(ValueError, match="2 levels and 8 channels, expected 2 levels and 7"):
        FusionSam(parts, FusionPrompt(7, 16, 2, 1), sam, PST900)
    with pytest.raises(ValueError, match="window 16: expected 0, 1, 2, 4 or 8"):
        FusionSam(parts, FusionPrompt(8, 16, 2, 1, 16), sam, PST900)


@pytest.mark.parametrize("shown", [pytest.param(True, marks=pytest.mark.slow), False])
def test_it_learns_what_only_the_thermal_camera_shows(shown: bool) -> None:
    """Image encoder and tokenizers random and frozen; with a black thermal image it does not."""
    network = tiny(sam=replace(TINY_SAM, patch=8, grid=8))
    visible, infrared, labels = thermal_pairs(shown)
    luma = luma_chroma((visible * 255).round())[0] / 255
    for tokenizer, plane in zip(network.tokenizers, (luma, infrared), strict=True):
        tokenizer.codebook.start(tokenizer.encode(plane))  # type: ignore[operator, union-attr]
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(300 if shown else 25):
        optimizer.zero_grad()
        out = network(visible, infrared)
        loss = F.cross_entropy(out.main, labels)
        if loss.item() < 0.4:
            break
        (loss + 0.1 * fusion_loss(luma, infrared, out.fused)).backward()
        optimizer.step()
    if shown:
        assert loss.item() < 0.4
        black = network(visible, torch.zeros_like(infrared)).main
        assert F.cross_entropy(black, labels).item() > 0.69
    else:  # every pixel has either label: ln 2 at best
        assert loss.item() > 0.69
