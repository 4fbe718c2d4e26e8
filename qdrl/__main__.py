"""Entry point of the `qdrl` command and of `python -m qdrl`."""

import errno
import io
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from click.exceptions import Abort, ClickException, NoArgsIsHelpError, UsageError

from qdrl.errors import RunFailed, UserError
from qdrl.parallel.launcher import abort, end_all_ranks, launched_rank, limit_threads

_READERS = {"archive", "export", "render"}
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
_LATER_RANKS_WAIT_SECONDS = 3.0  # most mistakes are seen by all ranks, and then the first one ends the job


def main() -> None:
    """Run the command line; every failure ends all ranks.

    A user's mistake is one line and exit code 2, a run that failed or a full disk one line and exit code 1. Under MPI
    any other exception aborts the whole job with the traceback of the rank that raised it.
    """
    limit_threads()  # before anything imports numpy or torch
    _print_any_text()
    if _may_run_users_code(sys.argv[1:]):
        sys.path.append(str(Path.cwd()))  # so that `module:function` finds a file of the folder qdrl is called in
    elif sys.path[:1] in ([""], [str(Path.cwd())]) and not (Path.cwd() / "qdrl").is_dir():
        del sys.path[0]  # `python -m` puts the current folder there
    from qdrl.cli import qdrl

    try:
        code = qdrl.main(prog_name="qdrl", standalone_mode=False)
    except NoArgsIsHelpError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except ClickException as error:
        _end(_usage_mistake(error), error.exit_code)
    except Abort:
        _end("interrupted", 130)
    except UserError as error:
        _end(error, 2)
    except RunFailed as error:
        _end(error, 1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            _end(_one_line(error), 1)
        rank = launched_rank()
        if rank is None:
            raise
        abort(error, rank)
    if isinstance(code, int) and code:  # of `context.exit`
        raise SystemExit(code)


def _usage_mistake(error: ClickException) -> str:
    """Return click's message in one line, with a pointer to the help of the verb that was used wrongly."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, UsageError) else None
    if context is None:
        return message
    return f"{message}{' See' if message.endswith('?') else '; see'} `{context.command_path} --help`"


def _may_run_users_code(arguments: Sequence[str]) -> bool:
    """Return whether modules of the current folder may be imported; a verb that reads a file must not run them."""
    return "--allow-code" in arguments or not set(arguments[:1]) & _READERS


def _end(reason: object, code: int) -> NoReturn:
    """End this process, and with it the job, with one line."""
    _say(reason)
    end_all_ranks(code)  # the reason may be visible to this rank only, and others would wait
    raise SystemExit(code) from None


def _one_line(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"cannot write: {place}{error.strerror}"


def _print_any_text() -> None:
    """Escape the characters that the locale's encoding lacks, where printing them would raise an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(reason: object) -> None:
    """Write one line to stderr: the first rank at once, the others later unless the first has ended them."""
    rank = launched_rank()
    if rank:
        time.sleep(_LATER_RANKS_WAIT_SECONDS)
    with suppress(OSError):
        sys.stderr.write(f"qdrl: {f'rank {rank}: ' if rank else ''}{reason}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
