"""Turns for the answers of services, so that clients can keep up with them."""

from __future__ import annotations

from collections import deque
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

__all__ = ["AnswerTurns"]

_PERIOD_SECONDS = 0.01


class AnswerTurns:
    """Turns of answers, one each 10 ms.

    By default a client keeps ten answers, those to other clients of the service included, and
    loses the others silently: many answers at once would leave most callers waiting.

    Only the executor's thread may call its methods.

    Args:
        node: owner of the timer.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._waiting: deque[Future] = deque()
        self._timer: Any = None

    async def wait(self) -> None:
        """Wait for the next turn."""
        if self._timer is None:
            self._timer = self._node.create_timer(_PERIOD_SECONDS, self._next, clock=self._clock)
            return
        turn: Future = Future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._node.destroy_timer(self._timer)
            self._timer = None
