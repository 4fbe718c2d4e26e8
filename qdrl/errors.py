"""User errors, failed runs and recoverable engine events; everything else is a bug."""


class UserError(ValueError):
    """A mistake in what came from outside: a config, a file, an argument.

    The message is one line that names what came, what was expected and the remedy. The command line prints it and exits
    with code 2.
    """


class RankLost(Exception):  # noqa: N818 - a recoverable event, not an error
    """A rank died; the ranks object already consists of the ranks that are left."""


class RunFailed(Exception):  # noqa: N818 - a result of the run, not a defect
    """A run that cannot give what was asked for: its last files cannot be written, or its evaluations fail.

    The message is one line that names what failed and the remedy. The command line prints it and exits with code 1.
    """
