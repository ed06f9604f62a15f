"""The tiny suite: tasks of one line that a model of 160,000 weights learns in a minute.

One symbol is one token. A problem has a slot of fixed width, an attempt another: the offset between
a step and its operand is the same for every length, without which such a model does not learn.
Every written step of the demonstrations is wrong with a known probability, so that the base model
has the skill and calibrated slips: something to improve.
"""

from embodied.data.tiny.add import Add
from embodied.data.tiny.chain import Chain
from embodied.data.tiny.edit import Edit, Odds
from embodied.data.tiny.sort import Sort
from embodied.data.tiny.task import BEGIN, END, PAD, SYMBOLS, Task, Verdict

TASKS: dict[str, type[Task]] = {"chain": Chain, "add": Add, "sort": Sort, "edit": Edit}

__all__ = [
    "BEGIN",
    "END",
    "PAD",
    "SYMBOLS",
    "TASKS",
    "Add",
    "Chain",
    "Edit",
    "Odds",
    "Sort",
    "Task",
    "Verdict",
]
