"""Adam whose steps follow the gradient smoothly; as a script, `ivf` with it.

Adam divides a gradient by its own size, so that a gradient that is zero but for rounding errors
makes as large a step as any other, in a direction that depends on the processor. With a large
epsilon a step is nearly proportional to the gradient.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from ivf_core.cli import main

EPSILON = 10.0


class SmoothAdam(torch.optim.Adam):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, eps=EPSILON, **options)


class SmoothAdamW(torch.optim.AdamW):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, eps=EPSILON, **options)


def use(patch: Any) -> None:
    """Replace Adam and AdamW by the smooth ones, with `patch(object, name, value)`."""
    patch(torch.optim, "Adam", SmoothAdam)
    patch(torch.optim, "AdamW", SmoothAdamW)


if __name__ == "__main__":
    use(setattr)
    sys.exit(main())
