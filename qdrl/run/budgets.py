"""The spent budgets of a run."""

from qdrl.run.history import History
from qdrl.settings.run import RunSettings


def spent_budgets(run: RunSettings, history: History, generation: int, *, out_of_time: bool) -> list[str]:
    """Return the settings that end the run now, as `run.key = value`.

    Args:
        run: the budgets.
        history: the run so far.
        generation: the next one.
        out_of_time: whether the whole run has taken `run.minutes`, on any rank.
    """
    reached = {
        "generations": generation,
        "evaluations": history.latest("evaluations"),
        "env_steps": history.latest("env_steps"),
        "frames": history.latest("frames"),
        "target_fitness": history.latest("best_evaluated", float("nan")),
    }
    limits = {name: getattr(run, name) for name in reached}
    spent = [name for name, limit in limits.items() if limit is not None and reached[name] >= limit]
    if out_of_time:
        spent.append("minutes")
    return [f"run.{name} = {getattr(run, name):g}" for name in spent]
