"""Every method by name. A method file registers itself in its last line."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from embodied.core.phase import Recipe
from embodied.core.types import Learner, UserError

PACKAGES = ("embodied.agents", "embodied.llm")


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        id: its name everywhere.
        config: frozen dataclass, the only schema of its settings.
        learner: (config, task) -> Learner, freshly initialised.
        recipe: (config, task) -> Recipe.
        paper: link.
        summary: one line for tables.
        updates: top-level keys of the learner's state that an update may change.
        module: where it lives.
    """

    id: str
    config: type
    learner: Callable[[Any, Any], Learner]
    recipe: Callable[[Any, Any], Recipe]
    paper: str
    summary: str
    updates: frozenset[str]
    module: str

    @property
    def kind(self) -> str:
        """What it is trained on: "robot" or "text"."""
        return "text" if self.module.startswith("embodied.llm.") else "robot"

    @property
    def documentation(self) -> str:
        """Docstring of the method's file."""
        return inspect.getdoc(importlib.import_module(self.module)) or ""


_METHODS: dict[str, Method] = {}


def register(
    id: str,
    *,
    config: type,
    learner: Callable[[Any, Any], Learner],
    recipe: Callable[[Any, Any], Recipe],
    paper: str,
    summary: str,
    updates: Iterable[str],
) -> None:
    """Add a method; its id must be the name of its file."""
    module = config.__module__
    if module.rsplit(".", 1)[-1] != id:
        raise ValueError(f"method {id!r} must live in a file of that name, not in {module}")
    _METHODS[id] = Method(id, config, learner, recipe, paper, summary, frozenset(updates), module)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known names closest to a mistyped one."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}"


def methods() -> dict[str, Method]:
    """All methods by id, their files imported."""
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        for module in pkgutil.iter_modules(path):
            importlib.import_module(f"{package}.{module.name}")
    return dict(sorted(_METHODS.items()))


def get(id: str) -> Method:
    """A method by id.

    Raises:
        UserError: naming the nearest known ids.
    """
    if id not in _METHODS:
        known = methods()
        if id not in known:
            raise UserError(f"unknown method {id!r}; {nearest(id, known)}")
    return _METHODS[id]
