"""Pool of crops with the fused luma of a teacher, for a student of another architecture.

No layer of such a student has a counterpart in the teacher: only the output can be imitated. The
teacher costs many times what the student does, so it runs once over a pool of crops, and the
student then sees these again and again. It sees them whole: a network's output near a border
depends on the padding too, and a part would have borders that the teacher never saw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ivf_core.data.pairs import Pair
from ivf_core.training.runs.batches import PairCrops, Sample

__all__ = ["CropPool"]

_BATCH = 8


class CropPool(Dataset[Sample]):
    """Crops with the teacher's fused luma; sample n is a random one of them.

    Args:
        teacher: a student in evaluation mode, on `device`.
        pairs: pairs to draw crops from.
        count: number of crops, rounded up to batches of 8.
        size: height and width of a crop.
        smoke: share of crops with smoke in front of the visible camera.
        seed: seed of the crops and of their order.
        device: device of the teacher.
    """

    def __init__(
        self,
        teacher: nn.Module,
        pairs: Sequence[Pair],
        count: int,
        size: tuple[int, int],
        *,
        smoke: float = 0.0,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.seed = seed
        self.names: list[str] = []
        self.crops: list[tuple[np.ndarray, ...]] = []  # uint8, uint8, float16; 1 x H x W
        crops = PairCrops(pairs, size, scales=(0.8, 1.6), smoke=smoke, seed=seed)
        for first in tqdm(range(0, count, _BATCH), desc="draw crops", mininterval=5):
            drawn = [crops[number] for number in range(first, first + _BATCH)]
            columns = zip(*(sample.arrays for sample in drawn), strict=True)
            luma, infrared = (np.rint(np.stack(c) * 255).astype(np.uint8) for c in columns)
            inputs = (torch.from_numpy(part).to(device).float() / 255 for part in (luma, infrared))
            with torch.inference_mode():
                target = teacher(*inputs).fused.half().cpu().numpy()
            self.names += [sample.name for sample in drawn]
            self.crops += zip(luma, infrared, target, strict=True)

    def __getitem__(self, number: int) -> Sample:
        """Draw luma and infrared, 1 x H x W uint8, and the teacher's luma, float16 in [0, 1]."""
        index = int(np.random.default_rng((self.seed, number)).integers(len(self.crops)))
        return Sample(self.names[index], self.crops[index])
