"""The processes that `accelerate launch` or torchrun started for one command: how they divide work and exchange results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from v2t_cli.core.console import log
from v2t_cli.core.device import pick_device
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line

T = TypeVar("T")
# Parts of the work take hours and end at different times; the default of 10 minutes would end the processes that wait.
PATIENCE = timedelta(days=30)
MEETING = timedelta(minutes=5)  # within which all processes must have started


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

        with _lost_peers():
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
        with _lost_peers():
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
            with _lost_peers():
                self._state.wait_for_everyone()


ALONE = Processes()


@contextmanager
def _lost_peers() -> Iterator[None]:
    """Raise V2TError if another process is gone while this one exchanges something with it."""
    try:
        yield
    except RuntimeError as error:
        raise V2TError(f"another process of this run was killed or lost its connection: {one_line(error)}") from error


def are_several() -> bool:
    """Whether this is one of several processes, as their launcher's variables say."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def meet(patience: timedelta) -> dict[str, Any]:
    """Wait until all processes that this run should have are there. Returns arguments for PartialState.

    patience: how long they later wait for what one of them stores. Raises RequestError if they are not there within MEETING,
    or the variables that describe them are wrong.
    """
    from torch.distributed.rendezvous import rendezvous

    told = ", ".join(f"{name}={os.environ.get(name, '')}" for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"))
    log.info(f"waiting until all processes have started ({told})")
    try:
        store, rank, count = next(rendezvous("env://", timeout=MEETING))
    except (RuntimeError, ValueError) as error:
        reason = f"not all processes met within {MEETING.total_seconds() / 60:g} minutes" if "imed out" in str(error) else one_line(error)
        raise RequestError(f"several processes ({told}): {reason}; start all of them, or none: unset WORLD_SIZE RANK") from None
    store.set_timeout(patience)
    return {"store": store, "rank": rank, "world_size": count}


@contextmanager
def launched(device: str) -> Iterator[tuple[Processes, str]]:
    """Yield this command's processes and this process's device. device: as the user asked.

    Raises RequestError if several processes are given one GPU.
    """
    if not are_several():
        yield ALONE, device
        return
    from accelerate import PartialState

    if ":" in device:
        raise RequestError(f"device '{device}': with several processes, each picks its own device; use auto, cuda or cpu")
    state = PartialState(cpu=pick_device(device).type == "cpu", timeout=PATIENCE, **meet(PATIENCE))
    yield Processes(state), str(state.device)
    state.destroy_process_group()  # not after an error: others may be waiting for this process
