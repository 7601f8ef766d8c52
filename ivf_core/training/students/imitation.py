"""Teach a student of another structure the fused luma of a reference.

Where no layer has a twin in the reference, only the output can be imitated. The
reference costs many times what the student does, so it runs once over a pool of
crops, and the student then sees these again and again. It sees them whole: a network's
answer near a border comes from the padding too, and a part would have borders that the
reference never saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ivf_core.data.pairs import CropSampler, Pair
from ivf_core.training.losses import mean_psnr_loss
from ivf_core.training.runs.batch_norm import freeze_norm
from ivf_core.training.runs.optimizers import OneCycleMuon

__all__ = ["Pool", "draw_pool", "imitate"]


class Pool(NamedTuple):
    """Crops with the reference's answer.

    Attributes:
        luma, infrared: N x H x W uint8.
        target: N x H x W float16, the fused luma of the reference.
    """

    luma: np.ndarray
    infrared: np.ndarray
    target: np.ndarray


@torch.inference_mode()
def draw_pool(
    reference: nn.Module,
    pairs: Sequence[Pair],
    count: int,
    size: tuple[int, int],
    *,
    smoke: float = 0.0,
    seed: int = 0,
    device: torch.device | None = None,
) -> Pool:
    """Draw crops as `CropSampler` does, and run the reference on them.

    Args:
        reference: a student in evaluation mode, on `device`.
        count: of crops, rounded up to batches of 8.
        size: height and width of a crop.
        smoke: share of crops with smoke before the visible camera.
    """
    batch = 8
    batches = CropSampler(pairs, size, scales=(0.8, 1.6), smoke=smoke, seed=seed).batches(batch)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in tqdm(range(math.ceil(count / batch)), desc="draw crops", mininterval=5):
        luma, infrared = (np.rint(part * 255).astype(np.uint8) for part in next(batches)[:2])
        tensors = (torch.from_numpy(part).to(device).float() / 255 for part in (luma, infrared))
        target = reference(*tensors).fused.half().cpu().numpy()
        parts.append((luma[:, 0], infrared[:, 0], target[:, 0]))
    return Pool(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def imitate(
    student: nn.Module,
    pool: Pool,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    freeze_norm_at: float,
    after_step: Callable[[int, Mapping[str, float]], None],
    seed: int = 0,
    device: torch.device | None = None,
) -> None:
    """Train `student` on the pool's crops for the best mean PSNR.

    Args:
        student: on `device`; its parameters change in place.
        learning_rate: the highest of Muon's, in one cycle.
        freeze_norm_at: share of the steps after which BatchNorm keeps its statistics.
        after_step: called with the step and its mean PSNR, by name.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: PyTorch has no Muon.
    """
    random = np.random.default_rng(seed)
    kind = device.type if device is not None else "cpu"
    optimizer = OneCycleMuon(student, steps, learning_rate=learning_rate)
    for step in range(steps):
        student.train()
        if step >= freeze_norm_at * steps:
            freeze_norm(student)
        chosen = random.integers(0, len(pool.luma), batch_size)
        luma, infrared, target = (
            torch.from_numpy(plane[chosen][:, None]).to(device).float() for plane in pool
        )
        with torch.autocast(kind, torch.bfloat16):
            fused = student(luma / 255, infrared / 255).fused
        loss = mean_psnr_loss(fused.float(), target)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss.item()}")
        optimizer.step(loss)
        after_step(step, {"psnr": -loss.item()})
