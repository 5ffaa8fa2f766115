"""Ctrl-C and SIGTERM: exit codes 130 and 143, and a way to stop that lets a training save first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from v2t_cli.core.console import log


class Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def _handling(signals: tuple[int, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises Terminated in the block, so that temporary files are removed."""

    def raise_terminated(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handling((signal.SIGTERM,), raise_terminated):
        yield


class StopRequest:
    """Becomes true at the first Ctrl-C or SIGTERM while it is listening; a second one interrupts at once."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self) -> bool:
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        # Of several processes, perhaps only another one got the signal.
        return 128 + (self.signum or signal.SIGTERM)

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        def remember(signum: int, frame: FrameType | None) -> None:
            if self():
                raise KeyboardInterrupt if signum == signal.SIGINT else Terminated
            self.signum = signum
            log.info("stopping after this step; press Ctrl-C again to stop at once")

        with _handling((signal.SIGINT, signal.SIGTERM), remember):
            yield self
