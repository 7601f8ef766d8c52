"""Train a student of another architecture to imitate the fused luma of a reference.

If no layer of the student corresponds to one of the reference, only the output can be imitated.
The reference costs many times as much as the student. It therefore runs once over a pool of
crops, and the student is trained on these repeatedly. Crops are never cut again: a network's
output near a border depends on the padding, and a smaller crop would have borders that the
reference did not have.
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
    """Crops with the output of a reference.

    Attributes:
        luma: Y of the visible images, N x H x W uint8.
        infrared: infrared images, N x H x W uint8.
        target: fused luma of the reference, N x H x W float16.
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
    """Draw crops with `CropSampler`, and run the reference on them.

    Args:
        reference: a student in evaluation mode, on `device`.
        pairs: pairs to draw crops from.
        count: number of crops, rounded up to a multiple of 8.
        size: height and width of a crop in pixels.
        smoke: share of crops with simulated smoke in front of the visible camera.
        seed: seed of the random numbers.
        device: device to run on.
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
        student: network on `device`; its parameters change in place.
        pool: crops with the reference's output.
        steps: number of steps.
        batch_size: number of crops of a batch.
        learning_rate: highest learning rate of Muon in its one cycle.
        freeze_norm_at: share of the steps after which BatchNorm keeps its statistics.
        after_step: called after each step with its number and its losses by name, here "psnr",
            the mean PSNR in dB.
        seed: seed of the random numbers.
        device: device to run on.

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
