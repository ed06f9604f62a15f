"""Texts to train on, from JSONL or Parquet files in the layouts that TRL's users have.

A row has one of these sets of columns, each a string or a conversation, which is a list of
`{"role": ..., "content": ...}` and is written out by the tokenizer's chat template:

- `prompt`, for generation; other columns are kept as facts for the reward
- `question` and `answer`, as GSM8K has them: the same, the question written as a user's message
  or, without a chat template, as `Question: ...` and `Answer:`
- `prompt` and `completion`, or `messages`, whose last one is the completion, or `text` alone
- `prompt`, `chosen` and `rejected`, or the last two alone, which then share their beginning
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from embodied.core.types import UserError
from embodied.data.parquet import pyarrow

COLUMNS = ("prompt", "completion", "messages", "text", "chosen", "rejected", "question")


class Prompt(str):
    """A prompt that carries what its row says besides.

    Attributes:
        facts: the other columns, for the reward.
    """

    facts: Mapping[str, Any]

    def __new__(cls, text: str, facts: Mapping[str, Any] | None = None) -> Prompt:
        """Text and facts."""
        made = super().__new__(cls, text)
        made.facts = facts or {}
        return made


class Example(NamedTuple):
    """A response to learn from.

    Attributes:
        prompt: text before it.
        response: text, its end included.
        weight: of its tokens in the loss.
    """

    prompt: str
    response: str
    weight: float = 1.0


class Pair(NamedTuple):
    """Two responses to a prompt, ends included, of which one is better."""

    prompt: str
    chosen: str
    rejected: str


@dataclass
class Texts:
    """What a file holds; of each kind a row is, one entry.

    Attributes:
        prompts: prompts to answer.
        examples: responses to imitate.
        pairs: preferences.
    """

    prompts: list[Prompt] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)


def read(
    path: str | Path, tokenizer: Any, check: Callable[[Mapping[str, Any]], None] | None = None
) -> Texts:
    """Read a file, all of its rows checked.

    Args:
        path: ends in .jsonl or .parquet.
        tokenizer: of transformers; it has the chat template and the end of a response.
        check: raises ValueError for facts of a prompt that will not do.

    Raises:
        UserError: there is no such file, or a row is not as it must be; names file and line.
    """
    path, texts = Path(path), Texts()
    for line, row in _rows(path):
        try:
            _add(row, tokenizer, texts, check or (lambda facts: None))
        except _BadRow as error:
            raise UserError(f"{path}:{line}: {error}") from error
    if not (texts.prompts or texts.examples or texts.pairs):
        raise UserError(f"{path} has no rows")
    return texts


class _BadRow(ValueError):
    """The message says what is wrong with a row."""


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, row); the first is line 1."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    if path.suffix == ".parquet":
        _, parquet = pyarrow()
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
        return
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: texts come as .jsonl or .parquet")
    with open(path, encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                yield line, json.loads(text)
            except ValueError as error:
                raise UserError(f"{path}:{line}: not JSON: {error}") from error


def _add(
    row: Any, tokenizer: Any, texts: Texts, check: Callable[[Mapping[str, Any]], None]
) -> None:
    if not isinstance(row, Mapping):
        raise _BadRow(f"a row is an object with columns, not {type(row).__name__}")
    row = {name: value for name, value in row.items() if value is not None}
    here = {name for name in COLUMNS if name in row}
    if here == {"prompt", "chosen", "rejected"}:
        texts.pairs.append(Pair(*_pair(row["prompt"], row["chosen"], row["rejected"], tokenizer)))
    elif here == {"chosen", "rejected"}:
        texts.pairs.append(Pair(*_pair(*_shared(row["chosen"], row["rejected"]), tokenizer)))
    elif here == {"prompt", "completion"}:
        texts.examples.append(Example(*_written(row["prompt"], row["completion"], tokenizer)))
    elif here == {"messages"}:
        messages = _conversation("messages", row["messages"])
        texts.examples.append(Example(*_written(messages[:-1], messages[-1:], tokenizer)))
    elif here == {"text"}:
        texts.examples.append(Example("", _text("text", row["text"]) + tokenizer.eos_token))
    elif here in ({"prompt"}, {"question"}):
        (asked,) = here
        facts = {name: value for name, value in row.items() if name != asked}
        try:
            check(facts)
        except ValueError as error:
            raise _BadRow(str(error)) from error
        write = _prompt if asked == "prompt" else _question
        texts.prompts.append(Prompt(write(row[asked], tokenizer), facts))
    else:
        raise _BadRow(
            f"columns {sorted(here) or sorted(row)} are none of: prompt; prompt and completion; "
            "messages; text; prompt, chosen and rejected; chosen and rejected; question and answer"
        )


def _pair(prompt: Any, chosen: Any, rejected: Any, tokenizer: Any) -> tuple[str, str, str]:
    before, good = _written(prompt, chosen, tokenizer)
    _, bad = _written(prompt, rejected, tokenizer)
    if good == bad:
        raise _BadRow("chosen and rejected are the same")
    return before, good, bad


def _shared(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The common beginning of two texts or conversations, and what follows in each."""
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        raise _BadRow("chosen and rejected must both be strings or both conversations")
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    if isinstance(chosen, str):  # words stay whole
        length = chosen.rfind(" ", 0, length) if " " in chosen[:length] else 0
    return chosen[:length], chosen[length:], rejected[length:]


def _prompt(prompt: Any, tokenizer: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return _template(_conversation("prompt", prompt), tokenizer, answer=True)


def _question(question: Any, tokenizer: Any) -> str:
    text = _text("question", question)
    if tokenizer.chat_template is None:
        return f"Question: {text}\nAnswer:"
    return _template([{"role": "user", "content": text}], tokenizer, answer=True)


def _written(prompt: Any, completion: Any, tokenizer: Any) -> tuple[str, str]:
    """Prompt and response as text, the response with its end."""
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion:
            raise _BadRow("the completion is empty")
        return prompt, completion + tokenizer.eos_token
    if isinstance(prompt, str) or isinstance(completion, str):
        raise _BadRow("prompt and completion must both be strings or both conversations")
    messages = _conversation("prompt", prompt, empty=True)
    answer = _conversation("completion", completion)
    before = _template(messages, tokenizer, answer=True) if messages else ""
    whole = _template([*messages, *answer], tokenizer, answer=False)
    if not whole.startswith(before):
        raise _BadRow("the chat template writes the prompt differently once it is answered")
    response = whole[len(before) :].rstrip("\n")
    return before, response if response.endswith(tokenizer.eos_token) else (
        response + tokenizer.eos_token
    )


def _template(messages: Sequence[Mapping[str, str]], tokenizer: Any, answer: bool) -> str:
    if tokenizer.chat_template is None:
        raise _BadRow("it is a conversation, and this model's tokenizer has no chat template")
    return tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=answer
    )


def _conversation(name: str, value: Any, empty: bool = False) -> list[dict[str, str]]:
    if not isinstance(value, list) or not (value or empty):
        raise _BadRow(f"{name} must be a list of messages, not {_short(value)}")
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise _BadRow(f"a message of {name} needs role and content, got {_short(message)}")
        _text(f"content in {name}", message["content"])
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _BadRow(f"{name} must be a string, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
