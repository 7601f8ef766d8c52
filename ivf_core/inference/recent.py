"""What was made for the latest few keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Recent"]

Key = TypeVar("Key")
Value = TypeVar("Value")

_KEPT = 12


class Recent(OrderedDict[Key, Value]):
    """Twelve values at most, the last used ones: engines keep one for each size and choice
    of outputs."""

    def obtain(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value for `key`, made now where there is none."""
        if key not in self:
            self[key] = make()
            if len(self) > _KEPT:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]
