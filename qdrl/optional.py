"""Packages that an installation may lack, and the one line that names them."""

from importlib import import_module

from qdrl.errors import UserError

# What to install for a module; a name that is not here is a user's own module or a defect.
_INSTALLS = {
    "ale_py": "'qdrl[atari]'",
    "evotorch": "evotorch",
    "gymnasium": "'gymnasium[mujoco]'",
    "imageio": "imageio",
    "imageio_ffmpeg": "'qdrl[video]'",
    "matplotlib": "matplotlib",
    "mpi4py": "'qdrl[mpi]'",
    "mujoco": "mujoco",
    "mujoco_warp": "'qdrl[gpu]'",
    "scipy": "scipy",
    "torch": "torch",
    "warp": "'qdrl[gpu]'",
}


def require(module: str, purpose: str) -> None:
    """Import a module, or raise a one-line error that names the package to install.

    Args:
        module: its name, for example "imageio".
        purpose: what needs it, for example "a film".

    Raises:
        UserError: it is not installed.
    """
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if (line := missing_package(error, purpose)) is None:
            raise
        raise UserError(line) from error


def missing_package(error: ModuleNotFoundError, purpose: str) -> str | None:
    """Return the line that says which package a purpose needs; None where the missing module is none of these."""
    module = (error.name or "").partition(".")[0]
    return f"{purpose} needs {module}: pip install {_INSTALLS[module]}" if module in _INSTALLS else None
