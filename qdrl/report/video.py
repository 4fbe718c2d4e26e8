"""Films of elites through MuJoCo's own renderer."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qdrl.archives.atomic import replacing, writing
from qdrl.errors import UserError
from qdrl.optional import require

if TYPE_CHECKING:
    from qdrl.analysis.rerun import Track

_SUFFIXES = (".mp4", ".gif")
_TOUCH_SITE_GROUP = 5  # hidden in films
_MOST_GIF_FPS = 25  # viewers play faster GIFs slowly


def check_video_path(path: Path) -> None:
    """Raise an error for a path that cannot become a film, before anything is computed.

    Raises:
        UserError: the suffix is unknown, the folder does not exist, or a package that writes films is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f"{path}: the name of a video must end in .mp4 or .gif, not '{path.suffix}'")
    if path.is_dir():
        raise UserError(f"{path} is a folder")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    require("imageio", "a film")
    if path.suffix.lower() == ".mp4":
        require("imageio_ffmpeg", "an .mp4 film")


def check_rendering() -> str | None:
    """Return why this machine cannot render without a screen; None if it can."""
    try:
        from qdrl.physics.library import load_opengl, mujoco

        load_opengl()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GLFW warns of every attempt without a screen
            with mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16) as renderer:
                renderer.render()
    except Exception as error:  # GL backends raise any type of error
        backend = os.environ.get("MUJOCO_GL", "unset")
        reason = str(error).splitlines()[0].partition(",")[0] if str(error) else type(error).__name__
        return (
            f"MUJOCO_GL is {backend} and cannot draw here ({reason});"
            " set MUJOCO_GL=egl (libegl1 or a GPU driver) or MUJOCO_GL=osmesa (libosmesa6)"
        )
    return None


def require_rendering() -> None:
    """Raise an error if this machine cannot render.

    Raises:
        UserError: the message names MUJOCO_GL.
    """
    if (problem := check_rendering()) is not None:
        raise UserError(problem)


def film(track: "Track", path: Path, *, width: int, height: int, fps: int) -> int:
    """Render an episode's states and write them as a film in real time.

    Args:
        track: the episode.
        path: .mp4 or .gif.
        width: pixels.
        height: pixels.
        fps: maximum frames per second; control steps are left out evenly to stay below it.

    Returns:
        the number of frames.

    Raises:
        UserError: this machine cannot render, or the file cannot be written.
    """
    check_video_path(path)
    require_rendering()
    import imageio.v3 as imageio

    is_gif = path.suffix.lower() == ".gif"
    limit = min(fps, _MOST_GIF_FPS) if is_gif else fps
    stride = max(1, int(np.ceil(1.0 / (limit * track.step_seconds) - 1e-9)))
    frames = list(_frames(track, stride, width, height))
    seconds = track.step_seconds * stride
    if is_gif:
        encoded: Any = imageio.imwrite("<bytes>", frames, extension=".gif", duration=1000 * seconds, loop=0)
        with writing(path), replacing(path) as temporary:
            temporary.write_bytes(encoded)
    else:
        with writing(path):
            path.open("ab").close()  # ffmpeg reports an unwritable path in many lines
        imageio.imwrite(path, frames, fps=1 / seconds, codec="libx264", macro_block_size=1, plugin="FFMPEG")
    return len(frames)


def _frames(track: "Track", stride: int, width: int, height: int) -> Iterator[Any]:
    from qdrl.physics.library import mujoco

    model = track.model
    model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
    model.vis.global_.offheight = max(height, model.vis.global_.offheight)
    camera = "track" if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track") >= 0 else -1
    data, options = mujoco.MjData(model), mujoco.MjvOption()
    options.sitegroup[_TOUCH_SITE_GROUP] = 0
    with mujoco.Renderer(model, height, width) as renderer:
        for qpos in track.qpos[::stride]:
            data.qpos[:] = qpos
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera=camera, scene_option=options)
            yield renderer.render()
