# EvoTorch annotates numbers as types that no number has: to the type checker all of it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
