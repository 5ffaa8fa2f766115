"""The error boundary of the command line."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from v2t_cli.core import console, streams
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.signals import Terminated, terminable

# Errors of the machine. Other OSErrors are bugs and keep their traceback.
_REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO),
}


def _check_folder() -> None:
    """Raise RequestError in a folder that was deleted: libraries fail there in many ways."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise RequestError("the current folder no longer exists; change to another one with cd") from None


class Commands(TyperGroup):
    """Turns errors that a user can cause into one line on stderr and the documented exit code."""

    def invoke(self, ctx: Any) -> Any:
        console.show_log()
        streams.reserve()
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":  # data is UTF-8 in any locale
            sys.stdout.reconfigure(encoding="utf-8")
        try:
            with terminable():
                _check_folder()
                out = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return out
        except V2TError as error:
            console.error(str(error))
            raise typer.Exit(error.exit_code) from None
        except (KeyboardInterrupt, Terminated) as error:
            console.error("stopped")
            raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 143) from None
        except BrokenPipeError:
            # The reader has enough (`| head -1`). Without this, Python would complain again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):  # subclasses of RuntimeError, meant for Typer
            raise
        except RuntimeError as error:
            from v2t_cli.core.device import out_of_memory  # late: it needs torch, which is loaded if this happens

            if not out_of_memory(error):
                raise
            sizes = "train.batch_size (and raise train.gradient_accumulation), encoder.batch_size or decode.batch_size"
            console.error(f"out of memory; lower {sizes}")
            raise typer.Exit(1) from None
        except MemoryError:
            console.error("out of memory; try smaller batches")
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            console.error(f"{error.filename or 'output'}: {error.strerror}")
            raise typer.Exit(1) from None
