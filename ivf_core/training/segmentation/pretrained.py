"""Models of the package `transformers` from local directories, without any download.

This module needs the package (extra `training`), which it imports when a model is loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "PretrainedError",
    "is_random",
    "load_pretrained",
    "load_tokenizer",
    "package",
    "save_random",
]

_RANDOM_MARK = "ivf_random_weights"


class PretrainedError(ValueError):
    """Error for a directory that is missing or does not hold the model, or a missing package."""


def package() -> Any:
    """Import and return `transformers`.

    Raises:
        PretrainedError: the package cannot be imported.
    """
    try:
        import transformers
    except ImportError as error:
        raise PretrainedError(
            "SegFormer, CLIPSeg, CLIP and SAM2 need the packages of the extra 'training' "
            f"(pip install transformers): {error}"
        ) from error
    return transformers


def load_pretrained(
    kind: str,
    model_type: str | Sequence[str],
    directory: str | os.PathLike[str],
    *,
    renewed: Sequence[str] = (),
    configure: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Any:
    """Load a float32 model from a directory in the form of `save_pretrained`.

    Weights are read from safetensors only, so that they cannot run code.

    Args:
        kind: class of `transformers`, such as "SegformerForSemanticSegmentation".
        model_type: the `model_type` that the directory's config.json must have, or several of
            which it must have one.
        directory: the directory.
        renewed: prefixes of names of tensors that may be missing, superfluous or of other
            shapes; these get random values. The names of all other tensors must be exactly
            those of the model.
        configure: function that changes the configuration, for entries of parts of the model.
        **options: entries that replace those of config.json.

    Raises:
        PretrainedError: the directory does not hold the model. The message names the directory
            and what was expected.
    """
    root = Path(directory)
    _check_directory(root, (model_type,) if isinstance(model_type, str) else model_type)
    with _quiet(), _named(root, kind):
        network = getattr(package(), kind)
        if configure is not None:
            config = network.config_class.from_pretrained(str(root), local_files_only=True)
            options["config"] = configure(config)
        model, report = network.from_pretrained(
            str(root),
            local_files_only=True,
            use_safetensors=True,  # no pickle
            ignore_mismatched_sizes=bool(renewed),
            output_loading_info=True,
            **options,
        )
    for fault in ("missing", "unexpected", "mismatched"):
        entries = report[f"{fault}_keys"]
        keys = [entry if isinstance(entry, str) else entry[0] for entry in entries]
        if wrong := sorted(key for key in keys if not key.startswith(tuple(renewed))):
            raise PretrainedError(
                f"'{root}': does not fit {kind}: {len(wrong)} tensors {fault}, first {wrong[0]}"
            )
    return model.float()


def load_tokenizer(kind: str, directory: str | os.PathLike[str]) -> Any:
    """Load a tokenizer of `transformers` from a directory.

    Args:
        kind: class of `transformers`, such as "CLIPTokenizer".
        directory: the directory.

    Raises:
        PretrainedError: the directory does not hold the tokenizer. The message names it.
    """
    root = Path(directory)
    if not ((root / "tokenizer.json").is_file() or (root / "vocab.json").is_file()):
        raise PretrainedError(f"'{root}': expected tokenizer.json, or vocab.json and merges.txt")
    with _quiet(), _named(root, kind):
        return getattr(package(), kind).from_pretrained(str(root), local_files_only=True)


def save_random(network: Any, directory: str | os.PathLike[str]) -> None:
    """Write a network of random weights by `save_pretrained`, marked as such in config.json."""
    setattr(network.config, _RANDOM_MARK, True)
    with _quiet():
        network.save_pretrained(directory)


def is_random(directory: str | os.PathLike[str]) -> bool:
    """Return whether a directory says that its weights are random, as those for trying out."""
    text = (Path(directory) / "config.json").read_text(encoding="utf-8")
    return json.loads(text).get(_RANDOM_MARK) is True


def _check_directory(root: Path, model_types: Sequence[str]) -> None:
    """Raise PretrainedError unless a directory has a config of these types, and safetensors."""
    types = " or ".join(f"'{name}'" for name in model_types)
    expected = f"expected config.json of model_type {types} and *.safetensors"
    if not root.is_dir():
        raise PretrainedError(f"'{root}': no such directory; {expected}")
    try:
        config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PretrainedError(f"'{root}': {expected}: {error}") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in model_types:
        raise PretrainedError(f"'{root}': model_type is {found!r}; {expected}")
    if not any(root.glob("*.safetensors")):
        pickles = ", ".join(sorted(path.name for path in root.glob("*.bin")))
        raise PretrainedError(
            f"'{root}': {expected}" + (f"; {pickles} is pickled, and not read" if pickles else "")
        )


@contextmanager
def _named(root: Path, kind: str) -> Iterator[None]:
    """Turn any exception into a PretrainedError that names the directory."""
    try:
        yield
    except PretrainedError:
        raise
    except Exception as error:  # an arbitrary directory can make the package raise anything
        raise PretrainedError(f"'{root}': not a {kind}: {type(error).__name__}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the package's progress bars and its report on tensors, which we check ourselves."""
    logging = package().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
