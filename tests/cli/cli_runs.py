"""Settings of runs that take a few seconds."""

from embodied.cli import main

RUN = "runs/wsrl-maze-point-v0-1"
TINY = (
    "method=wsrl",
    "experiment=maze",
    "method.hidden=[8,8]",
    "method.members=3",
    "method.batch_size=8",
    "method.offline_updates=40",
    "method.warmup_steps=40",
    "method.online_steps=80",
    "method.require_warmup_success=false",
    "method.eval_every=0",
    "evaluation.episodes=3",
    "collect.episodes=10",
    "trainer.tensorboard=false",
    "report=false",
)


def call(words):
    """Exit status of a command."""
    try:
        return main(list(words))
    except SystemExit as leaving:  # argparse
        return leaving.code
