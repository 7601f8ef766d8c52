"""Prototypes of classes in features, and SARTM's two losses on them, equations (12) to (14).

The published code divides prototypes by the number of their pixels twice, starts the moving average
at zero, pulls it there whenever a class is absent, and leaves it out of checkpoints. Here a
prototype is a mean, its average starts with the first batch that shows the class, and losses are
those of the classes in the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.class_sets import UNLABELED
from ivf_core.training.runs.devices import sum_over_processes

__all__ = ["Prototypes", "language_loss", "mask_average_pool", "relation_loss"]


def mask_average_pool(
    features: Tensor, labels: Tensor, classes: int, *, ignore: int = UNLABELED
) -> tuple[Tensor, Tensor]:
    """Compute the mean feature of each class over the batch of all processes (MAP, equation 12).

    A feature belongs to the class of the pixel at its centre.

    Args:
        features: N x D x h x w float.
        labels: N x H x W int64 class ids; H / h and W / w are the same whole number.
        classes: number of classes K.
        ignore: id of pixels without a label.

    Returns:
        K x D prototypes, zero for classes that do not occur, and K bool, which do.
    """
    size = features.shape[2:]
    ids = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    ids = ids.where(ids != ignore, classes)
    members = F.one_hot(ids, classes + 1)[..., :classes].to(features.dtype)
    sums = torch.einsum("nhwk,ndhw->kd", members, features)
    counts = sum_over_processes(members.sum((0, 1, 2)))
    return sum_over_processes(sums) / counts.clamp_min(1)[:, None], counts > 0


class Prototypes(nn.Module):
    """Exponential moving averages of the prototypes of classes.

    Args:
        classes: number of classes K.
        channels: channels D of a prototype.
        decay: share of the former average in the new one.
    """

    prototypes: Tensor
    seen: Tensor

    def __init__(self, classes: int, channels: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("prototypes", torch.zeros(classes, channels))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, batch: Tensor, present: Tensor) -> Tensor:
        """Add a batch to the averages of its classes, and return all averages.

        Args:
            batch: K x D, prototypes of the batch.
            present: K bool, classes that occur in it.
        """
        mixed = self.decay * self.prototypes + (1 - self.decay) * batch
        new = torch.where(self.seen[:, None], mixed, batch)
        self.prototypes = torch.where(present[:, None], new, self.prototypes)
        self.seen = self.seen | present
        return self.prototypes


def relation_loss(batch: Tensor, average: Tensor, present: Tensor) -> Tensor:
    """Compute SARTM's L_cr, equation (13): prototypes against their moving average.

    KL(softmax(average) || softmax(batch)) over the channels, divided by their number as in the
    published code, the mean of the classes in the batch.

    Args:
        batch: K x D float, prototypes of the batch.
        average: K x D float, their moving averages.
        present: K bool, classes that occur in the batch.

    Returns:
        A scalar, 0 or more; zero, with a gradient of zero, without classes.
    """
    if not present.any():
        return batch.sum() * 0
    log_q = batch[present].log_softmax(1)
    log_p = average[present].log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).mean()


def language_loss(
    prototypes: Tensor, similarity: Tensor, present: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Compute SARTM's L_se, equation (14): similarities of prototypes against those of names.

    KL(softmax(T / t) || softmax(S / t)) by rows, where T are the cosines of the names, S those of
    the prototypes and t is the temperature, divided by the number of columns as in the published
    code. Rows and columns are the classes in the batch.

    Args:
        prototypes: K x D float, prototypes of the batch.
        similarity: K x K float, cosines of the embeddings of the names.
        present: K bool, classes that occur in the batch.
        temperature: t, above 0. At the published 1 the targets are nearly flat, as CLIP's cosines
            are 0.7 to 1.

    Returns:
        A scalar, 0 or more; zero, with a gradient of zero, with fewer than two classes.
    """
    if int(present.sum()) < 2:
        return prototypes.sum() * 0
    own = F.normalize(prototypes[present], dim=1)
    log_q = (own @ own.T / temperature).log_softmax(1)
    log_p = (similarity[present][:, present] / temperature).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).mean()
