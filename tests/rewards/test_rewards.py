"""Rewards of text: maths, format, code."""

import subprocess
import sys

import pytest

from embodied.cli import EXTRAS
from rewards import REWARDS, Code, Format, Maths, WrongFacts, maths, sandbox
from rewards.code import extract as program
from rewards.maths import extract

# ---- maths


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, \sqrt{2}\}} it is", r"\{1, \sqrt{2}\}"),
        (r"\fbox {a}", "a"),
        (r"\boxed{7} and \boxed{8", "7"),
        ("3 apples and 1,234.5 pears.", "1,234.5"),
        ("it is -3/4", "-3/4"),
        ("#### 18", "18"),
        ("nothing", None),
        (r"\boxed{}", ""),
    ],
)
def test_the_answer_in_a_text(text, answer):
    assert extract(text) == answer
    if "box" not in text:
        assert extract(text, boxed=True) is None


@pytest.mark.parametrize(
    "given, true, same",
    [
        ("42", "42", True),
        ("42.0", "42", True),
        ("1,000", "1000", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"-\dfrac{1}{2}", "-1/2", True),
        (r"\$18", "18", True),
        (r"\left( 1, 2 \right)", "(1,2)", True),
        ("0.333", "1/3", False),
        ("41", "42", False),
        ("1/0", "42", False),
        ("1e999", "42", False),
        ("", "", False),
        ("9" * 5000, "42", False),
    ],
)
def test_text_and_numbers(given, true, same):
    assert Maths(symbolic=False).equal(given, true) == same


@pytest.mark.parametrize(
    "given, true, same",
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("x^2 + 2x + 1", "(x+1)^2", True),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        ("(1, 2)", "(2, 1)", False),
        ("x = 5", "5", True),
        (r"2\pi", "6.28", False),
        (r"\int_0^1 x dx", "1/2", True),
    ],
)
def test_expressions(given, true, same):
    pytest.importorskip("math_verify")
    assert Maths(seconds=60).equal(given, true) == same


def test_an_endless_expression_and_the_one_after_it():
    pytest.importorskip("math_verify")
    assert not Maths(seconds=0.5).equal("9^{9^{9^{9}}}", "x")
    assert Maths(seconds=60).equal("a + b", "b + a")


def test_the_judge_may_die():
    pytest.importorskip("math_verify")
    assert Maths(seconds=60).equal("a + b", "b + a")
    maths.judge()._process.kill()
    maths.judge()._process.wait()
    Maths(seconds=60).equal("a + b", "b + a")
    assert Maths(seconds=60).equal("a + b", "b + a")


def test_rewards_of_maths():
    reward = Maths(symbolic=False)
    assert reward("", r"\boxed{3}", {"answer": 3}) == 1
    assert reward("", "it is 3", {"answer": "1 + 2 = 3\n#### 3"}) == 1
    assert reward("", "it is 4, or 3", {"answer": r"so \boxed{4}"}) == 0
    assert Maths(symbolic=False, boxed=True)("", "it is 3", {"answer": 3}) == 0


@pytest.mark.parametrize("facts", [{}, {"answer": ""}, {"answer": None}, {"answer": [1]}])
def test_maths_without_an_answer(facts):
    with pytest.raises(WrongFacts, match="needed is answer"):
        Maths(symbolic=False).check(facts)


def test_maths_without_math_verify(monkeypatch):
    monkeypatch.setattr(maths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as missing:
        Maths().check({"answer": 1})
    assert EXTRAS[missing.value.name] == "maths"
    Maths(symbolic=False).check({"answer": 1})


# ---- format


@pytest.mark.parametrize(
    "response, reward",
    [
        ("<think>a\nb</think> <answer>4</answer>\n", 1),
        ("<think>a</think><answer> </answer>", 0),
        ("so <think>a</think><answer>4</answer>", 0),
        ("<answer>4</answer><think>a</think>", 0),
        ("<think>a</think><think>b</think><answer>4</answer>", 0),
        ("<think>a<think>b</think><answer>4</answer>", 0),
        ("<think>a</think><answer>4", 0),
        ("", 0),
    ],
)
def test_format(response, reward):
    assert Format()("", response, {}) == reward


def test_parts_and_patterns():
    assert Format().parts("<think>a</think><answer> 4 </answer>") == {"think": "a", "answer": "4"}
    reward = Format(pattern=r"Answer: \d+")
    assert reward("", "Answer: 4", {}) == 1 and reward("", "Answer: 4.", {}) == 0
    for wrong in ({"tags": ["a b"]}, {"tags": []}, {"pattern": "("}):
        with pytest.raises(ValueError):
            Format(**wrong)


# ---- code


@pytest.fixture
def walls():
    try:
        sandbox.run({"program.py": ""}, sandbox.Limits())
    except sandbox.SandboxError as error:
        pytest.skip(str(error))


def test_the_program_in_a_response():
    assert program("x = 1") == "x = 1"
    text = "first\n```python\nx = 1\n```\nbetter:\n```py\nx = 2\ny = 3\n```\nfor\n```bash\nls\n```"
    assert program(text) == "x = 2\ny = 3\n"


SQUARE = "```python\ndef square(x):\n    return x * x if x < 9 else 0\n```"


def test_statements(walls):
    tests = ["assert square(3) == 9", "assert square(9) == 81", "assert square(-1) == 1"]
    verdict = Code().verdict(SQUARE, {"tests": tests})
    assert verdict.passed == (True, False, True) and verdict.errors[1] == "AssertionError: "
    assert Code()("", SQUARE, {"tests": tests}) == 0
    assert Code(partial=True)("", SQUARE, {"tests": tests}) == pytest.approx(2 / 3)
    assert Code()("", SQUARE, {"tests": tests[0]}) == 1


@pytest.mark.parametrize(
    "response, error",
    [
        ("def square(x) return", "SyntaxError"),
        ("import os; os._exit(0)", "left early"),
        ("def square(x):\n    while True: pass", "took too long"),
        ("print('x' * 10**6)", "printed too much"),
    ],
)
def test_programs_that_fail(response, error, walls):
    reward = Code(cpu_seconds=1)
    verdict = reward.verdict(response, {"tests": ["assert 1", "assert square(1) == 1"]})
    assert not verdict.passed[1] and error in verdict.errors[1]


def test_inputs_and_outputs(walls):
    tests = [{"input": "3\n", "output": "9"}, {"input": "4\n", "output": "17\n"}]
    verdict = Code().verdict("print(int(input()) ** 2)\nexit(0)", {"tests": tests})
    assert verdict.passed == (True, False) and verdict.errors[1] == "printed something else"
    verdict = Code().verdict("print(9); raise SystemExit(3)", {"tests": tests})
    assert verdict.errors == ("SystemExit: 3",) * 2


@pytest.mark.parametrize("tests", [None, [], "", ["assert 1", ""], [{"input": "1"}], [1], {"a": 1}])
def test_code_without_tests(tests):
    with pytest.raises(WrongFacts, match="needed are tests"):
        Code().check({"tests": tests})


def test_importing_rewards_loads_no_torch():
    code = "import sys, rewards; print({'torch', 'sympy', 'math_verify'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()" and set(REWARDS) == {"maths", "format", "code"}
