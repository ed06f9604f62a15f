"""Rows of texts: every layout, and every way a row can be wrong."""

import json

import pytest

from embodied.core.types import UserError
from embodied.data.text import Example, Pair, read
from tests import tiny_language

pytest.importorskip("transformers")
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}.{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    made = tiny_language.tokenizer()
    made.chat_template = TEMPLATE
    return made


def say(role, content):
    return {"role": role, "content": content}


def write(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n\n")
    return path


ASK, GOOD, BAD = [say("user", "1+1")], [say("assistant", "2")], [say("assistant", "3")]


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"prompt": "1+1", "completion": "2"}, Example("1+1", "2.")),
        ({"prompt": ASK, "completion": GOOD}, Example("<u>1+1<a>", "2.")),
        ({"messages": ASK + GOOD}, Example("<u>1+1<a>", "2.")),
        ({"messages": ASK + GOOD + ASK + BAD}, Example("<u>1+1<a>2.<u>1+1<a>", "3.")),
        ({"text": "1+1=2", "prompt": None}, Example("", "1+1=2.")),
    ],
)
def test_examples(row, expected, tokenizer, tmp_path):
    assert read(write(tmp_path, row, row), tokenizer).examples == [expected, expected]


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"prompt": "1+1", "chosen": "2", "rejected": "3"}, Pair("1+1", "2.", "3.")),
        ({"prompt": ASK, "chosen": GOOD, "rejected": BAD}, Pair("<u>1+1<a>", "2.", "3.")),
        ({"chosen": ASK + GOOD, "rejected": ASK + BAD}, Pair("<u>1+1<a>", "2.", "3.")),
        ({"chosen": "a b 12", "rejected": "a b 13"}, Pair("a b", " 12.", " 13.")),
    ],
)
def test_pairs(row, expected, tokenizer, tmp_path):
    assert read(write(tmp_path, row), tokenizer).pairs == [expected]


def test_prompts_keep_their_facts(tokenizer, tmp_path):
    rows = [{"prompt": "1+1", "answer": 2}, {"prompt": ASK, "answer": 2, "level": "low"}]
    texts = read(write(tmp_path, *rows), tokenizer)
    assert texts.prompts == ["1+1", "<u>1+1<a>"]
    facts = [prompt.facts for prompt in texts.prompts]
    assert facts == [{"answer": 2}, {"answer": 2, "level": "low"}]


def test_questions_are_prompts(tokenizer, tmp_path):
    path = write(tmp_path, {"question": "1+1", "answer": "two #### 2"})
    for name, text in ((None, "Question: 1+1\nAnswer:"), (TEMPLATE, "<u>1+1<a>")):
        other = tiny_language.tokenizer()
        other.chat_template = name
        (prompt,) = read(path, other).prompts
        assert prompt == text and prompt.facts == {"answer": "two #### 2"}


def test_facts_are_checked(tokenizer, tmp_path):
    def check(facts):
        if "answer" not in facts:
            raise ValueError("needed is an answer")

    rows = [{"prompt": "1+1", "answer": 2}, {"prompt": "1+1"}]
    with pytest.raises(UserError, match=r"rows.jsonl:2: needed is an answer"):
        read(write(tmp_path, *rows), tokenizer, check)


def test_parquet(tokenizer, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    rows = [{"prompt": ASK, "completion": GOOD}, {"prompt": ASK, "completion": BAD}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    assert [e.response for e in read(path, tokenizer).examples] == ["2.", "3."]


GOOD_ROW = {"prompt": "1+1", "completion": "2"}


@pytest.mark.parametrize(
    "row, message",
    [
        ("{'prompt': 1}", "not JSON"),
        ('["1+1"]', "a row is an object with columns, not list"),
        ({"query": "1+1"}, r"columns \['query'\] are none of"),
        ({"question": ["1+1"]}, "question must be a string"),
        ({"prompt": "1", "chosen": "2"}, r"columns \['chosen', 'prompt'\] are none of"),
        ({"prompt": "1+1", "completion": ""}, "the completion is empty"),
        ({"prompt": "1+1", "completion": GOOD}, "both be strings or both conversations"),
        ({"prompt": "1", "chosen": "2", "rejected": "2"}, "are the same"),
        ({"messages": []}, "must be a list of messages"),
        ({"messages": [{"role": "user"}]}, "needs role and content"),
        ({"messages": [say("user", 3)]}, "must be a string, got 3"),
        ({"text": ["a"]}, "text must be a string"),
        ({"prompt": 7}, "prompt must be a list of messages, not 7"),
        ({"chosen": "a", "rejected": ASK}, "both be strings or both conversations"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(row, message, tokenizer, tmp_path):
    with pytest.raises(UserError, match=rf"rows.jsonl:2: .*{message}"):
        read(write(tmp_path, GOOD_ROW, row), tokenizer)


def test_no_template(tmp_path):
    with pytest.raises(UserError, match="has no chat template"):
        read(write(tmp_path, {"prompt": ASK}), tiny_language.tokenizer())


def test_no_file(tokenizer, tmp_path):
    with pytest.raises(UserError, match="no file"):
        read(tmp_path / "nothing.jsonl", tokenizer)
    (tmp_path / "rows.csv").write_text("prompt\n1+1\n")
    with pytest.raises(UserError, match="texts come as"):
        read(tmp_path / "rows.csv", tokenizer)
    with pytest.raises(UserError, match="has no rows"):
        read(write(tmp_path), tokenizer)
