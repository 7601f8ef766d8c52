"""What every metric asks of its pictures."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_pictures"]


def check_pictures(
    smallest: int = 1, *, channels: tuple[int, ...] = (1,), **pictures: Tensor
) -> None:
    """Refuse what no metric can score.

    Args:
        smallest: height and width that the metric needs.
        channels: numbers of them that the metric takes.
        pictures: by name, each N x 1 x H x W float32 or float64, grey levels 0..255.

    Raises:
        ValueError: another type, shape, device or range, a value that is not finite, or
            a picture that is too small; names the picture and says what was expected.
    """
    first_name, first = next(iter(pictures.items()))
    for name, picture in pictures.items():
        shape = tuple(picture.shape)
        if picture.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is {picture.dtype}, expected torch.float32 or torch.float64")
        if picture.ndim != 4 or shape[1] not in channels or not shape[0]:
            known = " or ".join(map(str, channels))
            raise ValueError(f"{name} is {shape}, expected N x {known} x H x W")
        if min(shape[2:]) < smallest:
            raise ValueError(
                f"{name} is {shape[2]} x {shape[3]}, expected at least {smallest} x {smallest}"
            )
        for trait in ("shape", "dtype", "device"):
            ours, theirs = getattr(picture, trait), getattr(first, trait)
            if ours != theirs:
                if trait == "shape":
                    ours, theirs = tuple(ours), tuple(theirs)
                raise ValueError(f"{name} is {ours}, expected {theirs} as {first_name}")
        low, high = (extreme.item() for extreme in picture.detach().aminmax())
        if not 0 <= low <= high <= 255:  # false for NaN too
            raise ValueError(f"{name} has values {low:g} to {high:g}, expected 0 to 255")
