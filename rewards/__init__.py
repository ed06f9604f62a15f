"""Rewards: what an answer is worth, by rules that can be checked. Importing them loads no torch."""

from rewards.code import Code
from rewards.format import Format
from rewards.maths import Maths
from rewards.reward import Reward, WrongFacts

REWARDS: dict[str, type[Reward]] = {"maths": Maths, "format": Format, "code": Code}
"""By the name on the command line; each is its own settings."""

__all__ = ["REWARDS", "Code", "Format", "Maths", "Reward", "WrongFacts"]
