"""Similarities of class names by a tiny CLIP, and from a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ivf_core.class_sets import MFNET, PST900
from ivf_core.training.sartm.language import LanguageError, similarity_to_json, text_similarity
from ivf_core.training.sartm.smoke import save_tiny_clip
from ivf_core.training.segmentation.pretrained import PretrainedError

transformers = pytest.importorskip("transformers")


def test_similarities_are_those_of_the_texts(tmp_path: Path) -> None:
    """Each name by itself gives the same embedding as all of them in one batch."""
    save_tiny_clip(tmp_path)
    similarity, random = text_similarity(tmp_path, PST900)
    assert random
    assert similarity.shape == (5, 5)
    torch.testing.assert_close(similarity, similarity.T)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(5))
    assert similarity.min() < 0.99
    network = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        first, last = (
            network(**tokenizer([text], return_tensors="pt")).text_embeds[0]
            for text in ("fire extinguisher", "survivor")
        )
    expected = torch.cosine_similarity(first, last, dim=0)
    torch.testing.assert_close(similarity[1, 4], expected, rtol=1e-4, atol=1e-5)


def test_order_of_names_is_that_of_ids(tmp_path: Path) -> None:
    """PST900's 1 is the fire extinguisher and 3 the hand drill, which its code swaps."""
    save_tiny_clip(tmp_path)
    assert PST900.names[1::2] == ("fire_extinguisher", "hand_drill")
    order = [0, 3, 2, 1, 4]
    swapped = replace(PST900, names=tuple(PST900.names[i] for i in order))
    ours, theirs = (text_similarity(tmp_path, names)[0] for names in (PST900, swapped))
    torch.testing.assert_close(ours[order][:, order], theirs)
    assert not torch.allclose(ours, theirs)


def test_text_encoder_of_a_whole_clip(tmp_path: Path) -> None:
    """Published ones have text and image encoder in one directory."""
    save_tiny_clip(tmp_path / "text")
    text = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path / "text")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=text.config.to_dict(), vision_config=vision, projection_dim=16
    )
    whole = transformers.CLIPModel(config)
    whole.text_model.load_state_dict(text.text_model.state_dict())
    whole.text_projection.load_state_dict(text.text_projection.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "whole" / name).write_bytes((tmp_path / "text" / name).read_bytes())
    similarity, random = text_similarity(tmp_path / "whole", MFNET)
    assert not random
    assert torch.equal(similarity, text_similarity(tmp_path / "text", MFNET)[0])


def test_file_of_similarities(tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    similarity = torch.rand(5, 5)
    path.write_text(similarity_to_json(similarity, PST900))
    read, random = text_similarity(path, PST900)
    assert torch.equal(read, similarity)
    assert not random
    with pytest.raises(LanguageError, match=r"text\.json': similarities of background, fire_.*; "):
        text_similarity(path, MFNET)
    path.write_text(json.dumps({"classes": PST900.names, "similarity": [[1.0]]}))
    with pytest.raises(LanguageError, match=r"similarity is \(1, 1\), expected .* 5 x 5"):
        text_similarity(path, PST900)
    path.write_text("[1]")
    with pytest.raises(LanguageError, match="expected JSON with classes and similarity"):
        text_similarity(path, PST900)
    with pytest.raises(PretrainedError, match="none': no such directory"):
        text_similarity(tmp_path / "none", PST900)
