"""Child process of a module that answers questions, each with one line of JSON."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, cast

__all__ = ["Answer", "Child", "serve"]

Answer = dict[str, Any]

_END_SECONDS = 10.0
_ORPHAN_SECONDS = 1.0  # for a process whose parent has ended to clean up
_PARENT = "IVF_PARENT_PROCESS"


class Child(AbstractContextManager["Child"]):
    """Child process, seen from its parent: starts it, asks it and ends it.

    It ends with its parent, however that ends and whatever the child is doing. Ctrl-C reaches
    only the parent, so that the parent decides in which order processes end.

    Args:
        module: module to run with `python -m`; it calls `serve`.
        settings: first argument of the module, as JSON.
        name: name of the process in errors; the module's name by default.
        environment: environment variables in addition to those of this process.

    Attributes:
        process: the process.
    """

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any],
        name: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name or module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
            env={**os.environ, **(environment or {}), _PARENT: str(os.getpid())},
        )

    def __exit__(self, *_error: object) -> None:
        self.end()

    def ask(self, question: str) -> Answer:
        """Send a question and wait for its answer; see `answer`."""
        self.send(question)
        return self.answer()

    def send(self, question: str) -> None:
        """Send a question: words in one line."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `answer` will raise
            print(question, file=self.process.stdin, flush=True)

    def answered(self) -> bool:
        """Return whether `answer` would return or raise without waiting."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def answer(self) -> Answer:
        """Wait for the next answer.

        The process sends the first answer without a question, when it is ready.

        Raises:
            ValueError: the process has failed or ended; the message names it.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"{self.name}: its process ended early")
        answer = cast(Answer, json.loads(line))
        if "error" in answer:
            raise ValueError(f"{self.name}: {answer['error']}")
        return answer

    def end(self) -> None:
        """Terminate the process and wait for it."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self.process.terminate()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(
    prepared: Callable[[], AbstractContextManager[tuple[Answer, Callable[..., Answer]]]],
) -> None:
    """Answer the questions on stdin until it is closed; called by the child process.

    If the parent has ended, this process ends a second later, even amid an answer.

    Args:
        prepared: context manager of the first answer, and of a function that is called with
            the words of each question and returns its answer.
    """
    # Redirect the output of libraries, which print too, to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(answer: Answer) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    questions = _questions()
    try:
        with prepared() as (ready, respond):
            reply(ready)
            for question in questions:
                reply(respond(*question.split()))
    except BrokenPipeError:  # the parent has ended
        pass
    except Exception as error:  # report any error to the parent
        with suppress(BrokenPipeError):
            reply({"error": f"{type(error).__name__}: {error}"})


def _questions() -> Iterator[str]:
    """Read lines of stdin in a thread, which ends the process if its parent has ended."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    parent = int(os.environ.get(_PARENT, os.getppid()))  # it may have ended during the imports

    def read() -> None:
        # Unbuffered: a thread that waits with a buffer's lock aborts the end of the process.
        with open(0, "rb", buffering=0, closefd=False) as stdin:
            for line in stdin:
                lines.put(line.decode())
        lines.put(None)
        while os.getppid() == parent:  # a parent that lives ends this process itself
            time.sleep(0.1)
        time.sleep(_ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=read, name="questions", daemon=True).start()
    return iter(lines.get, None)
