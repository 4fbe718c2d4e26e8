"""Numbers as options and arguments of verbs."""

from typing import Any

import click


class Integer(click.IntRange):
    """An integer from `min` to `max`, or without one of them; its error says what was expected and what came."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the integer that a text states.

        Raises:
            click.BadParameter: the text states none, or it is out of bounds.
        """
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected an integer{self._bounds()}, got '{value}'", param, ctx)

    def _bounds(self) -> str:
        if self.min is not None and self.max is not None:
            return f" from {self.min} to {self.max}"
        lower = "" if self.min is None else f", at least {self.min}"
        return lower if self.max is None else f", at most {self.max}"
