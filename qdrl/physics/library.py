"""The import of mujoco for the whole package.

Importing mujoco loads the OpenGL library that MUJOCO_GL names. If that library is missing or broken, mujoco is imported
with drawing disabled, because only drawing needs the library.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "MUJOCO_GL"


@contextmanager
def _drawing_disabled() -> Iterator[None]:
    before = os.environ[_VARIABLE]
    os.environ[_VARIABLE] = "disable"
    try:
        yield
    finally:
        os.environ[_VARIABLE] = before


try:
    import mujoco
except Exception:  # OpenGL bindings may raise any exception
    if _VARIABLE not in os.environ:
        raise
    with _drawing_disabled():
        import mujoco

from mujoco.batch import Batch, SimulationError  # noqa: E402 - after mujoco itself

__all__ = ["Batch", "SimulationError", "load_opengl", "mujoco"]


def load_opengl() -> None:
    """Load the OpenGL library that MUJOCO_GL names, unless importing mujoco loaded it.

    Raises:
        Exception: The library is missing, broken or disabled; the bindings may raise any exception.
    """
    if hasattr(mujoco, "GLContext"):
        return
    from mujoco.rendering.classic import gl_context

    importlib.reload(gl_context)
    if not hasattr(gl_context, "GLContext"):
        raise ImportError(f"drawing is disabled by {_VARIABLE}={os.environ.get(_VARIABLE)}")
    mujoco.GLContext = gl_context.GLContext  # pyright: ignore[reportAttributeAccessIssue]
