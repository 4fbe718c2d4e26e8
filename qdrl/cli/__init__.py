"""The command line: one module for each verb, imported when the verb is called, so that `qdrl --help` is quick."""

from importlib import import_module

import click

from qdrl.errors import UserError
from qdrl.optional import missing_package


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported only when used.

    Args:
        verbs: command name -> (module, one-line help shown in the index). The module's `command` is a click command.

    Raises:
        TypeError: an entry of `verbs` is not such a pair.
    """

    def __init__(self, *args: object, verbs: dict[str, tuple[str, str]], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        for name, entry in verbs.items():
            if not (isinstance(entry, tuple) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
                raise TypeError(f"verb '{name}': expected a pair (module, one-line help), got {entry!r}")
        self._verbs = verbs

    def invoke(self, ctx: click.Context) -> object:
        """Run a verb; a package that it needs and this installation lacks is one line.

        Raises:
            UserError: a package is not installed.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            line = missing_package(error, f"{ctx.command_path} {ctx.invoked_subcommand}")
            if line is None:
                raise
            raise UserError(line) from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return _load(cmd_name, self._verbs[cmd_name][0]) if cmd_name in self._verbs else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._verbs.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._verbs and not args[0].startswith("-"):
            raise UserError(f"no verb '{args[0]}'{self._suggestion(ctx, args[0])}")
        return super().resolve_command(ctx, args)

    def _suggestion(self, ctx: click.Context, name: str) -> str:
        """Return the verb that an unknown one probably meant, of this group or of a group inside or around it."""
        from qdrl.naming import suggest

        for group in self._verbs:
            inner = self.get_command(ctx, group)
            if isinstance(inner, LazyGroup) and name in inner.list_commands(ctx):
                return f"; did you mean 'qdrl {group} {name}'?"
        outer = ctx.parent.command if ctx.parent else None
        if isinstance(outer, LazyGroup) and name in outer.list_commands(ctx):
            return f"; did you mean 'qdrl {name}'?"
        return suggest(name, self._verbs)


def _load(verb: str, module: str) -> click.Command:
    """Return the command of a verb.

    Raises:
        UserError: the module does not exist or has no command.
    """
    try:
        command = getattr(import_module(module), "command", None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, and what it imports does not
        raise UserError(f"verb '{verb}': there is no module {module}; correct its entry in `verbs`") from error
    if not isinstance(command, click.Command):
        found = "no `command`" if command is None else f"a `command` of type {type(command).__name__}"
        raise UserError(f"verb '{verb}': {module} has {found}; expected a function with @click.command()")
    return command


@click.group(
    cls=LazyGroup,
    verbs={
        "evolve": ("qdrl.cli.evolve", "Start a run from an experiment file, alone or under mpirun."),
        "resume": ("qdrl.cli.resume", "Continue a run that was stopped or killed."),
        "tasks": ("qdrl.cli.tasks", "List the tasks, or describe one."),
        "algorithms": ("qdrl.cli.algorithms", "List the algorithms, or describe one and its settings."),
        "settings": ("qdrl.cli.settings", "List the tables of an experiment file, or describe one's settings."),
        "archive": ("qdrl.cli.archive", "Inspect an archive file: info, plot, show, find, validate."),
        "export": ("qdrl.cli.export", "Write one genome's weights as .npz."),
        "render": ("qdrl.cli.render", "Film an elite as .mp4 or .gif."),
        "doctor": (
            "qdrl.cli.doctor",
            "Check this machine: MPI, threads, HDF5, MuJoCo, devices, OpenGL.",
        ),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="qdrl", message="qdrl %(version)s")
def qdrl() -> None:
    """Evolve neural policies and illuminate behaviour spaces on real physics.

    \b
    Example:
      mpirun -n 2 qdrl evolve experiments/quickstart/config.toml
      qdrl archive plot runs/quickstart/<run>/archive.h5
    """
