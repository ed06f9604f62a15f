"""How play goes on without resets: which skills were tried and achieved, and where things went.

python -m benchmarks.play robosuite/Stack --steps 20000
"""

from __future__ import annotations

import argparse

import envs
from envs import play


def main() -> None:
    """Plays once and prints two tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.play", description=__doc__)
    parser.add_argument("task", metavar="ID")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    env = envs.make(chosen.task, horizon=chosen.steps)
    env.reset(seed=chosen.seed)
    player = play.expert(env, chosen.seed)
    seen: dict[str, list[float]] = {}
    for _ in range(chosen.steps):
        env.step(player.act(env.state_observation()))
        for name, value in player.look().items():
            seen.setdefault(name, []).append(value)
    print("| skill | tried | achieved |\n| --- | --- | --- |")
    for name, (tried, achieved) in player.tally.items():
        print(f"| {name} | {tried} | {achieved} |")
    print("\n| quantity | least | most | at the end |\n| --- | --- | --- | --- |")
    for name, values in seen.items():
        print(f"| {name} | {min(values):.3f} | {max(values):.3f} | {values[-1]:.3f} |")
    env.close()


if __name__ == "__main__":
    main()
