"""Pair teacher in memory, asked about a pair only if its answer is not on disk yet."""

from __future__ import annotations

import logging

import numpy as np
import torch

from ivf_core.models.pair_segmenter import PairSegmenter
from ivf_core.training.segmentation.logit_cache import LogitCache, LogitCacheError

__all__ = ["AskedTeacher"]

_log = logging.getLogger(__name__)


class AskedTeacher:
    """Network that segments pairs, with the cache of its answers.

    Args:
        network: network in evaluation mode, on its device.
        cache: cache of this network.

    Attributes:
        cache: the cache.
        made, kept: answers that the network gave, and that were found.
    """

    def __init__(self, network: PairSegmenter, cache: LogitCache) -> None:
        self._network = network
        self.cache = cache
        self.made = 0
        self.kept = 0

    @torch.inference_mode()
    def ask(self, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        """Return the log-probabilities of a pair from the cache, which gets them first if need be.

        A damaged file is made again.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.

        Returns:
            C x ceil(H / 4) x ceil(W / 4) float32.
        """
        try:
            found = self.cache.read(visible, infrared)
        except LogitCacheError as error:
            _log.warning("%s; it is made again", error)
            found = None
        if found is not None:
            self.kept += 1
            return found
        device = next(self._network.parameters()).device
        pair = [
            torch.from_numpy(plane).to(device).float()[None] / 255
            for plane in (visible.transpose(2, 0, 1).copy(), infrared[None].copy())
        ]
        self.cache.write(visible, infrared, self._network.classify(*pair)[0])
        self.made += 1
        made = self.cache.read(visible, infrared)
        assert made is not None
        return made
