"""Cache of the values for the keys used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Recent"]

Key = TypeVar("Key")
Value = TypeVar("Value")

_KEPT = 12


class Recent(OrderedDict[Key, Value]):
    """Cache of the twelve values used last.

    Engines store one value for each image size and choice of outputs.
    """

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value for a key, made now if the cache has none.

        Args:
            key: hashable key.
            make: called for a key that is not in the cache.
        """
        if key not in self:
            self[key] = make()
            if len(self) > _KEPT:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]
