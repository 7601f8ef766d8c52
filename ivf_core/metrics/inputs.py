"""Check of the images that metrics take."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_images"]


def check_images(smallest: int = 1, *, channels: tuple[int, ...] = (1,), **images: Tensor) -> None:
    """Reject images that a metric cannot score.

    Args:
        smallest: height and width that the metric needs.
        channels: numbers of channels that the metric takes.
        images: images by name, each N x C x H x W float32 or float64, values 0..255.

    Raises:
        ValueError: another dtype, shape, device or range, a value that is not finite, or
            an image that is too small; the message names the image and what was expected.
    """
    first_name, first = next(iter(images.items()))
    for name, image in images.items():
        shape = tuple(image.shape)
        if image.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is {image.dtype}, expected torch.float32 or torch.float64")
        if image.ndim != 4 or shape[1] not in channels or not shape[0]:
            known = " or ".join(map(str, channels))
            raise ValueError(f"{name} is {shape}, expected N x {known} x H x W")
        if min(shape[2:]) < smallest:
            raise ValueError(
                f"{name} is {shape[2]} x {shape[3]}, expected at least {smallest} x {smallest}"
            )
        for trait in ("shape", "dtype", "device"):
            found, expected = getattr(image, trait), getattr(first, trait)
            if found != expected:
                if trait == "shape":
                    found, expected = tuple(found), tuple(expected)
                raise ValueError(f"{name} is {found}, expected {expected} as {first_name}")
        low, high = (extreme.item() for extreme in image.detach().aminmax())
        if not 0 <= low <= high <= 255:  # false for NaN too
            raise ValueError(f"{name} has values {low:g} to {high:g}, expected 0 to 255")
