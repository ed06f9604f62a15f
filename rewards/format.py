"""Whether a response has a given form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar


@dataclass(frozen=True)
class Format:
    """1 if a response is tags one after the other, each with text in it, and nothing else; else 0.

    Attributes:
        tags: in their order: `<think>...</think><answer>...</answer>`. White space may stand around
            them, and none of them may come twice.
        pattern: instead of the tags, a regular expression that the whole response must match; a dot
            also matches the end of a line.
    """

    FACTS: ClassVar[str] = ""

    tags: list[str] = field(default_factory=lambda: ["think", "answer"])
    pattern: str = ""

    def __post_init__(self) -> None:
        wrong = [tag for tag in self.tags if not re.fullmatch(r"[\w-]+", tag)]
        if wrong or not (self.tags or self.pattern):
            raise ValueError(f"tags must be names like think, got {self.tags!r}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"pattern {self.pattern!r} is no regular expression: {error}"
            ) from error

    def check(self, facts: Mapping[str, Any]) -> None:
        """Any prompt will do."""

    def __call__(self, prompt: str, response: str, facts: Mapping[str, Any]) -> float:
        """1 or 0."""
        if self.pattern:
            return float(re.fullmatch(self.pattern, response, re.DOTALL) is not None)
        return float(self.parts(response) is not None)

    def parts(self, response: str) -> dict[str, str] | None:
        """The text in each tag, or None if the response has not this form."""
        match = self._form.fullmatch(response)
        if match is None or any(len(marks.findall(response)) != 1 for marks in self._marks):
            return None
        texts = [text.strip() for text in match.groups()]
        return dict(zip(self.tags, texts, strict=True)) if all(texts) else None

    @cached_property
    def _form(self) -> re.Pattern:
        parts = "".join(rf"<{tag}>(.*?)</{tag}>\s*" for tag in self.tags)
        return re.compile(rf"\s*{parts}", re.DOTALL)

    @cached_property
    def _marks(self) -> list[re.Pattern]:
        return [re.compile(rf"<{slash}{tag}>") for tag in self.tags for slash in ("", "/")]
