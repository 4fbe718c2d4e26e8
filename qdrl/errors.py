"""What the user can mend and what the engine goes on from, told apart from what we must mend."""


class UserError(ValueError):
    """A mistake in what came from outside: a config, a file, an argument.

    The message is one line that names what came, what was expected and how to mend it. The command line
    prints it and exits with code 2; every other exception is a defect and keeps its traceback.
    """


class RankLost(Exception):  # noqa: N818 - an event to go on from, not an error
    """A rank died; the ranks object already stands for those that are left."""


class RunFailed(Exception):  # noqa: N818 - a result of the run, not a defect
    """A run that cannot give what was asked for: its last files cannot be written, or its evaluations fail.

    The message is one line that names what failed and the remedy. The command line prints it and exits with code 1.
    """
