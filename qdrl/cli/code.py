"""The option that allows a verb to run code that a file names."""

import click

allow_code_option = click.option(
    "--allow-code",
    is_flag=True,
    help="Import and run code that the file names: tasks, descriptor functions, modules of environments.",
)
"""Adds `--allow-code`; without it such a file is refused in one line that names the code and where it lies."""
