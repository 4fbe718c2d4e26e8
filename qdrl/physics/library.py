"""The one place that imports mujoco.

mujoco loads the OpenGL library that MUJOCO_GL names while it is imported. Where that library is missing or broken,
everything but drawing works without it, so mujoco is then imported with drawing disabled.
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
except Exception:  # OpenGL bindings raise whatever their loaders raise
    if _VARIABLE not in os.environ:
        raise
    with _drawing_disabled():
        import mujoco

from mujoco.batch import Batch, SimulationError  # noqa: E402 - after mujoco itself

__all__ = ["Batch", "SimulationError", "load_opengl", "mujoco"]


def load_opengl() -> None:
    """Load the OpenGL library that MUJOCO_GL names, where importing mujoco has not.

    Raises:
        Exception: whatever the library's bindings raise where it is missing, broken or disabled.
    """
    if hasattr(mujoco, "GLContext"):
        return
    from mujoco.rendering.classic import gl_context

    importlib.reload(gl_context)
    if not hasattr(gl_context, "GLContext"):
        raise ImportError(f"drawing is disabled by {_VARIABLE}={os.environ.get(_VARIABLE)}")
    mujoco.GLContext = gl_context.GLContext  # pyright: ignore[reportAttributeAccessIssue]
