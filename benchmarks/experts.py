"""How often scripted experts succeed: a table of tasks, in the form of docs/experts.md.

    python -m benchmarks.experts robosuite/Lift robosuite/PickPlace:1000 --episodes 50

A number after a colon is a task's horizon in control steps. Episode i begins with `reset(seed=i)`.
"""

from __future__ import annotations

import argparse
import statistics

import envs
from embodied.core.stats import wilson


def steps_to_success(env: envs.SimEnv, expert: envs.Expert, seed: int) -> int | None:
    """Runs one episode; returns the steps to its first success."""
    env.reset(seed=seed)
    expert.reset()
    for step in range(1, env.horizon + 1):
        _, _, terminated, truncated, info = env.step(expert.act(env.state_observation()))
        if info["success"]:
            return step
        if terminated or truncated:
            break
    return None


def row(task: str, episodes: int) -> str:
    """The table's line for a task, given as `id` or `id:horizon`."""
    name, _, horizon = task.partition(":")
    env = envs.make(name, horizon=int(horizon) if horizon else None)
    expert = envs.expert(env)
    found = [steps_to_success(env, expert, seed) for seed in range(episodes)]
    env.close()
    steps = [count for count in found if count is not None]
    low, high = wilson(len(steps), episodes)
    middle = f"{statistics.median(steps):.0f}" if steps else "none"
    longest = max(steps, default="none")
    failed = ", ".join(str(seed) for seed, count in enumerate(found) if count is None)
    return (
        f"| {name} | {env.horizon} | {len(steps)} of {episodes} | {100 * low:.0f} to "
        f"{100 * high:.0f} % | {middle} | {longest} | {failed or 'none'} |"
    )


def main() -> None:
    """Prints the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=__doc__)
    parser.add_argument("tasks", nargs="+", metavar="ID[:HORIZON]")
    parser.add_argument("--episodes", type=int, default=50)
    chosen = parser.parse_args()
    print("| task | horizon | success | 95 % interval | median steps | most | failed seeds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for task in chosen.tasks:
        print(row(task, chosen.episodes), flush=True)


if __name__ == "__main__":
    main()
