"""Similarity of class names to CLIP's text encoder (Radford et al., 2021), computed once."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ivf_core.class_sets import ClassSet
from ivf_core.training.segmentation.pretrained import is_random, load_pretrained, load_tokenizer

__all__ = ["LanguageError", "similarity_to_json", "text_similarity"]

# What a whole CLIP has beside its text encoder.
_OF_IMAGES = ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.posi")


class LanguageError(ValueError):
    """Error for a file of similarities that is damaged or of other classes."""


def text_similarity(source: str | Path, class_set: ClassSet) -> tuple[Tensor, bool]:
    """Return the cosines of the embeddings of class names.

    The texts are the bare names with spaces for underscores, as in SARTM. Of all that CLIP says
    the training needs only this matrix.

    Args:
        source: directory of a CLIP of `transformers` with its tokenizer and safetensors; or a
            JSON file that `similarity_to_json` wrote, such as from the metadata of weights.
        class_set: the classes.

    Returns:
        K x K float32 in [-1, 1], and whether the directory says that its weights are random.

    Raises:
        LanguageError: the file is damaged or of other classes.
        PretrainedError: the directory does not hold a CLIP.
    """
    source = Path(source)
    if source.is_file():
        return _read(source, class_set), False
    network = load_pretrained(
        "CLIPTextModelWithProjection", ("clip", "clip_text_model"), source, renewed=_OF_IMAGES
    ).eval()
    tokenizer = load_tokenizer("CLIPTokenizer", source)
    texts = [name.replace("_", " ") for name in class_set.names]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        embeddings = network(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).text_embeds
        embeddings = F.normalize(embeddings, dim=1)
    return (embeddings @ embeddings.T).clone(), is_random(source)


def similarity_to_json(similarity: Tensor, class_set: ClassSet) -> str:
    """Return similarities as JSON text with the names that they are of.

    Args:
        similarity: K x K float.
        class_set: the classes.
    """
    return json.dumps({"classes": class_set.names, "similarity": similarity.tolist()})


def _read(path: Path, class_set: ClassSet) -> Tensor:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        names = tuple(entries["classes"])
        similarity = torch.tensor(entries["similarity"], dtype=torch.float32)
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise LanguageError(
            f"text '{path}': expected JSON with classes and similarity: {error}"
        ) from error
    if names != class_set.names:
        raise LanguageError(
            f"text '{path}': similarities of {', '.join(map(str, names))}; expected those of "
            f"{', '.join(class_set.names)}, in this order"
        )
    if similarity.shape != (len(names), len(names)) or not similarity.isfinite().all():
        raise LanguageError(
            f"text '{path}': similarity is {tuple(similarity.shape)}, expected finite numbers, "
            f"{len(names)} x {len(names)}"
        )
    return similarity
