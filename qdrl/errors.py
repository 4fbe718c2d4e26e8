"""User errors, failed runs and recoverable engine events; everything else is a bug."""


class UserError(ValueError):
    """A mistake in a config, a file or an argument.

    The message is one line: what came, what was expected, how to fix it. The command line prints it and exits
    with code 2.
    """


class RankLost(Exception):  # noqa: N818 - a recoverable event, not an error
    """A rank died; the ranks object already consists of the ranks that are left."""


class RunFailed(Exception):  # noqa: N818 - a result of the run, not a defect
    """A run that cannot complete: its last files cannot be written, or too many evaluations fail.

    The message is one line: what failed and how to fix it. The command line prints it and exits with code 1.
    """
