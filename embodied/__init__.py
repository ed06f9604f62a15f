"""Embodied: train in simulation, deploy to a real arm, publish numbers others can reproduce.

    run = embodied.build("method=wsrl", "env=maze/point-v0", "data=scripted", "seed=1")
    run.trainer.step()  # one step, by hand
    run.trainer.run()  # to the end
    policy = embodied.load_policy(run.directory)
    print(embodied.evaluate(run.directory, episodes=50).success)

Importing this package imports nothing else; torch waits for the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from embodied.assemble import Run
    from embodied.core.types import Policy
    from embodied.evaluation import SuiteEvaluation

__version__ = "0.1.0"


def build(*overrides: str) -> Run:
    """A run ready to `trainer.step()` or `trainer.run()`, its directory made.

    Args:
        *overrides: settings as `embodied train` takes them, such as "method=wsrl"; "resume=RUN"
            continues a run.

    Raises:
        embodied.core.types.UserError: for anything the user can mend.
    """
    from embodied.assemble import start

    return start(overrides)


def load_policy(run: str | Path) -> Policy:
    """The policy of a run, from its newest checkpoint: `act` maps [N, ...] to [N, A].

    Args:
        run: run directory.
    """
    from embodied.loading import load_policy

    return load_policy(run)[0]


def evaluate(
    policy: str | Path, episodes: int = 50, seed: int = 0, **options: Any
) -> SuiteEvaluation:
    """Evaluate a policy on fixed initial states and write ledger and page.

    Args:
        policy: a run directory, "scripted", "play", "random" or a websocket address.
        episodes: how many initial states per task.
        seed: chooses them.
        **options: of `embodied.evaluation.evaluate`: suite, env_args, workers, batch, videos, ...;
            for the run of a language method of `embodied.exam.evaluate`: suite, data, samples, ...
    """
    from embodied import evaluation, exam

    module = exam if exam.is_language_run(policy) else evaluation
    return module.evaluate(policy, episodes, seed, **options)[0]
