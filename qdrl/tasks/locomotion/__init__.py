"""Locomotion on MuJoCo: the built-in tasks, and `robot.Robot`, the base class of a user's robot."""
