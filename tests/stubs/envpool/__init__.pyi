# EnvPool is installed for benchmarks only; the type checker runs without it.
from typing import Any

def make_gymnasium(task_id: str, **options: Any) -> Any: ...
