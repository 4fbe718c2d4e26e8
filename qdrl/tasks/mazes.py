"""The mazes of Lehman and Stanley 2011 (https://doi.org/10.1162/EVCO_a_00025): start, goal and walls."""

from dataclasses import dataclass

import numpy as np

from qdrl.errors import UserError
from qdrl.naming import suggest


@dataclass(frozen=True)
class Maze:
    """A maze.

    Attributes:
        start: Initial centre of the robot, which heads along +x.
        goal: Position of the goal.
        walls: Line segments, x1, y1, x2, y2 each.
    """

    start: tuple[float, float]
    goal: tuple[float, float]
    walls: tuple[tuple[float, float, float, float], ...]


MAZES = {
    "hard_maze": Maze(
        start=(36, 184),
        goal=(31, 20),
        walls=(
            (41, 5, 3, 8),
            (3, 8, 4, 49),
            (4, 49, 57, 53),
            (4, 49, 7, 202),
            (7, 202, 195, 198),
            (195, 198, 186, 8),
            (186, 8, 39, 5),
            (56, 54, 56, 157),
            (57, 106, 158, 162),
            (77, 201, 108, 164),
            (6, 80, 33, 121),
            (192, 146, 87, 91),
            (56, 55, 133, 30),
        ),
    ),
    "medium_maze": Maze(
        start=(30, 22),
        goal=(270, 100),
        walls=(
            (5, 5, 295, 5),
            (295, 5, 295, 135),
            (295, 135, 5, 135),
            (5, 135, 5, 5),
            (241, 135, 58, 65),
            (114, 5, 73, 42),
            (130, 91, 107, 46),
            (196, 5, 139, 51),
            (219, 125, 182, 63),
            (267, 5, 214, 63),
            (271, 135, 237, 88),
        ),
    ),
}
"""The mazes by task name."""


def walls(name: str) -> np.ndarray:
    """Return the walls of a maze, for drawing.

    Args:
        name: Name of the maze.

    Returns:
        `(walls, 4)` float64: x1, y1, x2, y2 of each, in units of the maze.

    Raises:
        UserError: There is no such maze.
    """
    if name not in MAZES:
        raise UserError(f"no maze '{name}'{suggest(name, list(MAZES))}")
    return np.array(MAZES[name].walls, np.float64)
