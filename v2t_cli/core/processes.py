"""The processes that `accelerate launch` or torchrun started for one command: how they divide work and exchange results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from v2t_cli.core.device import pick_device
from v2t_cli.core.errors import RequestError, V2TError

T = TypeVar("T")
# Parts of the work take hours and end at different times; the default of 10 minutes would end the processes that wait.
PATIENCE = timedelta(days=30)


class Processes:
    """This process and its peers. All of them must make each call, in the same order."""

    def __init__(self, state: Any = None):
        """state: accelerate's PartialState; None for a process without peers, which needs no torch."""
        self._state = state
        self.count: int = state.num_processes if state else 1
        self.is_main: bool = state.is_main_process if state else True

    def split(self, items: list[T]) -> list[T]:
        """This process's contiguous part of a list that all have; the last processes may get nothing."""
        if self._state is None:
            return items
        with self._state.split_between_processes(items) as mine:
            return mine

    def gather(self, items: list[T]) -> list[T]:
        """The lists of all processes, one after the other, on every process."""
        if self._state is None:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def total(self, *counts: int) -> list[int]:
        """Each of the counts, summed over all processes."""
        return [sum(column) for column in zip(*self.gather([counts]))]

    def by_main(self, function: Callable[[], T]) -> T:
        """Run the function on the main process; every process gets the result. A V2TError is raised on all of them."""
        if self._state is None:
            return function()
        from accelerate.utils import broadcast_object_list

        out: list[Any] = [None]
        if self.is_main:
            try:
                out = [function()]
            except V2TError as error:
                out = [error]
        (result,) = broadcast_object_list(out)
        if isinstance(result, V2TError):
            raise result
        return result

    def on_all(self, function: Callable[[], T]) -> T:
        """Run the function on every process; each gets its own result. A V2TError of one process is raised on all."""
        results: list[T] = []
        refused: list[V2TError] = []
        try:
            results.append(function())
        except V2TError as error:
            refused.append(error)
        if refused := self.gather(refused):
            raise refused[0]
        return results[0]

    def wait(self) -> None:
        """Wait until all processes have made this call."""
        if self._state is not None:
            self._state.wait_for_everyone()


ALONE = Processes()


@contextmanager
def launched(device: str) -> Iterator[tuple[Processes, str]]:
    """Yield this command's processes and this process's device. device: as the user asked.

    Raises RequestError if several processes are given one GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield ALONE, device
        return
    from accelerate import PartialState

    if ":" in device:
        raise RequestError(f"device '{device}': with several processes, each picks its own device; use auto, cuda or cpu")
    state = PartialState(cpu=pick_device(device).type == "cpu", timeout=PATIENCE)
    yield Processes(state), str(state.device)
    state.destroy_process_group()  # not after an error: others may be waiting for this process
