"""SAM2 and SARTM: sizes, what the decoder computes, what reaches the logits, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_pairs import random_pair, size_of, thermal_pairs

from ivf_core.class_sets import CLASS_SETS, MFNET, PST900, ClassSet
from ivf_core.models.lora import lora_parameters
from ivf_core.models.sartm import Sartm
from ivf_core.training.sartm.sam2 import (
    SAM2_MODELS,
    TINY_SAM2,
    Sam2Architecture,
    build_sam2,
    open_sam2,
)
from ivf_core.training.segmentation.pretrained import PretrainedError, save_random

transformers = pytest.importorskip("transformers")


def tiny(class_set: ClassSet = PST900, seed: int = 0, **options: Any) -> Sartm:
    """A tiny SARTM whose LoRA, fusion and decoder are not at their starting point."""
    torch.manual_seed(seed)
    network = Sartm(build_sam2(TINY_SAM2, len(class_set)), class_set, rank=4, **options)
    with torch.no_grad():
        for parameter in lora_parameters(network):
            parameter.normal_(0, 0.3)
        for part in network.fusion:
            part.fuse.norm.weight.fill_(1)  # type: ignore[union-attr, operator]
    return network.eval()


@pytest.mark.parametrize(
    ("model", "total", "backbone", "neck", "lora"),
    [
        ("tiny", 31_440_721, 26_849_472, 369_664, 279_552),
        ("small", 38_538_577, 33_947_328, 369_664, 377_856),
        ("base_plus", 73_328_401, 68_675_712, 431_104, 663_040),
        ("large", 216_924_865, 212_149_296, 553_984, 1_718_784),
    ],
)
def test_sizes_of_sam2(model: str, total: int, backbone: int, neck: int, lora: int) -> None:
    """Published sizes, and LoRA of rank 16 of one modality."""
    with torch.device("meta"):
        sam2 = build_sam2(SAM2_MODELS[model], 3)
        encoder = sam2.vision_encoder
        found = [size_of(part.parameters()) for part in (sam2, encoder.backbone, encoder.neck)]
        network = Sartm(build_sam2(SAM2_MODELS[model], 5), PST900)
    assert found == [total, backbone, neck]
    assert size_of(sam2.mask_decoder.parameters()) == 4_215_109
    assert size_of(lora_parameters(network)) == 2 * lora
    assert Sam2Architecture.from_config(sam2.config) == SAM2_MODELS[model]


@pytest.mark.parametrize(
    ("name", "decoder"), [("pst900", 4_495_751), ("mfnet", 5_057_035), ("fmb", 5_898_961)]
)
def test_sizes_of_sartm(name: str, decoder: int) -> None:
    """With SAM2 base+; of nine classes 9,213,493 parameters are trained."""
    class_set = CLASS_SETS[name]
    with torch.device("meta"):
        network = Sartm(build_sam2(SAM2_MODELS["base_plus"], len(class_set)), class_set)
    assert size_of(network.sam2.mask_decoder.parameters()) == decoder
    assert size_of(network.fusion.parameters()) == 3_050_534 + 6
    assert size_of(network.auxiliary.parameters()) == 8_448 + 16_640 + 2_305 * len(class_set)
    if name == "mfnet":
        trained = (p for p in network.parameters() if p.requires_grad)
        assert size_of(trained) == 9_213_493


def test_sizes_of_the_tiny_one() -> None:
    sam2 = build_sam2(TINY_SAM2, 5)
    assert size_of(sam2.parameters()) == 129_123
    network = Sartm(sam2, PST900, rank=4)
    assert size_of(lora_parameters(network)) == 3_968
    assert size_of(network.parameters()) - size_of(network.auxiliary.parameters()) == 182_115


def test_shapes() -> None:
    network = tiny()
    visible, infrared = random_pair()
    features = network.encode(visible, infrared)
    shapes = [(4, 16, 24), (8, 8, 12), (32, 4, 6)]
    assert [tuple(x.shape[1:]) for own in zip(*features, strict=True) for x in own] == 2 * shapes
    low = network.segment(visible, infrared)
    assert low.main.shape == (2, 5, 16, 24)
    assert low.auxiliary is not None
    assert low.auxiliary.shape == (2, 5, 16, 24)
    out = network(*random_pair(size=(60, 90)))
    assert out.main.shape == (2, 5, 60, 90)
    assert out.auxiliary is not None
    assert out.auxiliary.shape == (2, 5, 60, 90)
    assert out.features is not None
    assert out.features.shape == (2, 32, 4, 6)
    assert out.fused is None
    whole = network(*(F.pad(x, (0, 6, 0, 4), mode="reflect") for x in random_pair(size=(60, 90))))
    assert torch.equal(whole.main[..., :60, :90], out.main)


@torch.no_grad()
def test_decoder_is_that_of_sam2() -> None:
    """On a square, from one modality alone, the masks are those of `Sam2Model` to the bit."""
    torch.manual_seed(0)
    config = TINY_SAM2.config(5)
    config.vision_config.backbone_feature_sizes = [[16, 16], [8, 8], [4, 4]]
    config.prompt_encoder_config.image_size = 64
    sam2 = transformers.Sam2Model(config).eval()
    torch.nn.init.normal_(sam2.no_memory_embedding)
    visible, infrared = random_pair(size=(64, 64))
    pixels = (visible - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    expected = sam2(pixel_values=pixels, multimask_output=True).pred_masks[:, 0]
    network = Sartm(sam2, PST900, rank=4).eval()
    own = [visible_ones for visible_ones, _ in network.encode(visible, infrared)]
    masks = network.decode_features(*own)
    assert masks.shape == (2, 5, 16, 16)
    # The encoder sees both modalities in one batch: other sums of the same numbers.
    assert torch.allclose(masks, expected, rtol=1e-4, atol=1e-6)
    network.memory_embedding = False
    assert not torch.allclose(network.decode_features(*own), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_classes_of_both_heads() -> None:
    """The logarithm of the mean of their probabilities, if asked for; else the decoder's logits."""
    network = tiny()
    out = network(*random_pair())
    assert out.auxiliary is not None
    assert torch.equal(network.classify(*random_pair()), out.main)
    network.average_heads = True
    mean = (out.main.double().softmax(1) + out.auxiliary.double().softmax(1)) / 2
    found = network.classify(*random_pair())
    assert torch.allclose(found.double().exp(), mean, rtol=1e-5)
    assert not torch.allclose(found.exp(), out.main.softmax(1), rtol=1e-3)


@torch.no_grad()
def test_a_new_network_is_sam2_on_the_mean_of_both() -> None:
    torch.manual_seed(0)
    network = Sartm(build_sam2(TINY_SAM2, 5), PST900, rank=4).eval()
    features = network.encode(*random_pair())
    mean = [0.5 * visible + 0.5 * infrared for visible, infrared in features]
    assert torch.equal(network.segment(*random_pair()).main, network.decode_features(*mean))


@torch.no_grad()
def test_the_same_image_gives_the_same_features_until_lora_learns() -> None:
    visible, infrared = random_pair()
    grey = infrared.expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    network = Sartm(build_sam2(TINY_SAM2, 5), PST900, rank=4).eval()
    for of_visible, of_infrared in network.encode(grey, infrared):
        assert torch.allclose(of_visible, of_infrared, rtol=1e-4, atol=1e-6)
    before = network.encode(visible, infrared)
    for parameter in lora_parameters(network):
        parameter[1].normal_()  # of the infrared modality
    for old, new in zip(before, network.encode(visible, infrared), strict=True):
        assert torch.equal(old[0], new[0])
        assert not torch.allclose(old[1], new[1])


@pytest.mark.parametrize("decode", ["fused", "each"])
def test_thermal_reaches_the_logits(decode: str) -> None:
    """Both heads see the infrared image of their pair, not its neighbours in the batch."""
    network = tiny(decode=decode)
    visible, infrared = random_pair()
    infrared.requires_grad_(True)
    out = network(visible, infrared)
    assert out.auxiliary is not None
    for logits in (out.main, out.auxiliary):
        (gradient,) = torch.autograd.grad(logits[0].square().sum(), infrared, retain_graph=True)
        assert gradient[0].abs().max() > 0
        assert gradient[1].abs().max() == 0
    swapped = network(visible, infrared.flip(0))
    assert not torch.allclose(out.main, swapped.main)


def test_options_of_the_decoding_differ() -> None:
    fused, each = (tiny(decode=word)(*random_pair()) for word in ("fused", "each"))
    assert not torch.allclose(fused.main, each.main)
    assert fused.auxiliary is not None
    assert each.auxiliary is not None
    assert torch.equal(fused.auxiliary, each.auxiliary)
    plain = tiny(thermal_normalization="none")(*random_pair())
    assert not torch.allclose(fused.main, plain.main)
    for option in ("decode", "thermal_normalization"):
        with pytest.raises(ValueError, match="'both': expected"):
            tiny(**{option: "both"})


def test_only_what_is_named_learns() -> None:
    """Neither the encoder, nor the prompts, nor the decoder's unused parts."""
    network = tiny()
    out = network(*random_pair())
    assert out.auxiliary is not None
    (out.main.square().mean() + out.auxiliary.square().mean()).backward()
    learned = {n for n, p in network.named_parameters() if p.grad is not None}
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert learned <= trained
    frozen = ("iou_prediction_head", "pred_obj_score_head", "prompt_encoder", ".base.", "patch_e")
    assert not [n for n in trained if any(part in n for part in frozen)]
    encoder = {n for n in trained if n.startswith("sam2.vision_encoder")}
    assert {n.rpartition(".")[2] for n in encoder} == {"down", "up"}
    assert trained - learned == set()


def test_the_second_head_is_part_of_the_network() -> None:
    """Logits are the same in each pass, and its weights are saved."""
    network = tiny()
    first, second = network(*random_pair()), network(*random_pair())
    assert first.auxiliary is not None
    assert second.auxiliary is not None
    assert torch.equal(first.auxiliary, second.auxiliary)
    assert "auxiliary.classify.weight" in network.state_dict()


@pytest.mark.parametrize("shown", [True, False])
def test_it_learns_what_only_the_thermal_camera_shows(shown: bool) -> None:
    """Encoder random and frozen; with a black thermal image it does not."""
    torch.manual_seed(0)
    network = Sartm(build_sam2(TINY_SAM2, 5), PST900, rank=4)
    visible, infrared, labels = thermal_pairs(shown)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(visible, infrared).main, labels)
        loss.backward()
        optimizer.step()
    if shown:
        assert loss.item() < 0.3
    else:  # every pixel has either label: ln 2 at best
        assert loss.item() > 0.69


def save_tiny(directory: Path, model_type: str = "sam2") -> Any:
    torch.manual_seed(1)
    sam2 = build_sam2(TINY_SAM2, 3)
    sam2.save_pretrained(directory)
    config = directory / "config.json"
    text = config.read_text()
    assert '"model_type": "sam2",' in text
    config.write_text(text.replace('"model_type": "sam2",', f'"model_type": "{model_type}",'))
    return sam2


@pytest.mark.parametrize("model_type", ["sam2", "sam2_video"])
def test_weights_from_a_directory(tmp_path: Path, model_type: str) -> None:
    """Everything is loaded but what depends on the number of classes."""
    source = save_tiny(tmp_path, model_type).state_dict()
    sam2, random = open_sam2(tmp_path, len(MFNET))
    assert not random
    assert sam2.mask_decoder.num_multimask_outputs == 9
    renewed = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")
    for name, value in sam2.state_dict().items():
        if not any(part in name for part in renewed):
            assert torch.equal(value, source[name]), name
    assert Sartm(sam2, MFNET)(*random_pair(size=(32, 32))).main.shape == (2, 9, 32, 32)


def test_weights_of_the_model_for_videos(tmp_path: Path) -> None:
    """Published files have a memory, which is left out."""
    source = build_sam2(TINY_SAM2, 3)
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    parts = {name: getattr(source.config, name).to_dict() for name in names}
    config = transformers.Sam2VideoConfig(
        **parts, memory_attention_hidden_size=32, memory_attention_feed_forward_hidden_size=32,
        memory_attention_num_layers=1, memory_encoder_hidden_size=32,
        memory_encoder_output_channels=8, mask_downsampler_embed_dim=32,
        memory_fuser_embed_dim=32, memory_fuser_intermediate_dim=32,
    )  # fmt: skip
    video = transformers.Sam2VideoModel(config)
    video.save_pretrained(tmp_path)
    sam2, _ = open_sam2(tmp_path, 5)
    for own, published in (
        (sam2.vision_encoder, video.vision_encoder),
        (sam2.mask_decoder.transformer, video.mask_decoder.transformer),
    ):
        for name, value in published.state_dict().items():
            assert torch.equal(own.state_dict()[name], value), name


def test_directories_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(
        PretrainedError, match=r"none': no such directory; .* 'sam2' or 'sam2_video'"
    ):
        open_sam2(tmp_path / "none", 3)
    sam2 = build_sam2(TINY_SAM2, 3)
    sam2.config.mask_decoder_config.attention_downsample_rate = 4
    transformers.Sam2Model(sam2.config).save_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match=r"decoder_config\.attention_d.* is 4, expected 2 as"):
        open_sam2(tmp_path, 3)
    save_tiny(tmp_path, "sam")
    with pytest.raises(PretrainedError, match="model_type is 'sam'; expected"):
        open_sam2(tmp_path, 3)


def test_random_weights_are_marked(tmp_path: Path) -> None:
    save_random(build_sam2(TINY_SAM2, 3), tmp_path)
    assert open_sam2(tmp_path, 5)[1]


def test_sam2_of_other_outputs() -> None:
    with pytest.raises(ValueError, match="SAM2 has 3 outputs, expected 5"):
        Sartm(build_sam2(TINY_SAM2, 3), PST900)
