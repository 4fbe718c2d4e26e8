# mujoco's wheel has no stubs and its names come from extension modules: to the type checker all of it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
