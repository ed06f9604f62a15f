"""Programs that try to get out, to stay, to eat the machine, or to lie about their results."""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rewards import jail, sandbox
from rewards.sandbox import Limits, SandboxError, run

LIMITS = Limits(seconds=10, cpu_seconds=2, memory=512)
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in jail.ARCHITECTURES,
    reason="the walls are those of Linux on x86-64 and arm64",
)


@pytest.fixture(scope="module", autouse=True)
def walls():
    """What follows tries harmful things; only where all walls stand."""
    try:
        run({"program.py": ""}, LIMITS)
    except SandboxError as error:
        pytest.skip(str(error))


def error_of(program, limits=LIMITS):
    outcome = run({"program.py": program}, limits)
    assert outcome.status == sandbox.ENDED
    return outcome.errors[0]


def test_a_program_that_ends():
    outcome = run({"program.py": "print(input())"}, LIMITS, stdin="hello\n")
    assert outcome == sandbox.Outcome(sandbox.ENDED, (None,), "hello\n")


def test_files_share_a_module_and_tests_do_not_stop_one_another():
    outcome = run({"a.py": "x = 1", "b.py": "assert x == 2", "c.py": "x += 1; x.y"}, LIMITS)
    assert outcome.errors[:2] == (None, "AssertionError: ")
    assert outcome.errors[2].startswith("AttributeError")


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: 0)\nwhile 1: 0"],
)
def test_an_infinite_loop(program):
    outcome = run({"program.py": program}, Limits(seconds=60, cpu_seconds=1))
    assert outcome.errors == () and outcome.status in (sandbox.TIME, sandbox.KILLED)


def test_waiting_for_ever():
    program = "input(); import time; time.sleep(900)"
    outcome = run({"program.py": program}, Limits(seconds=1), stdin="\n")
    assert outcome.status == sandbox.TIME and outcome.errors == ()


@pytest.mark.parametrize(
    "program", ["[0] * 10**9", "bytearray(2**30)", "x = [[]]\nwhile 1: x *= 2"]
)
def test_a_memory_hog(program):
    assert error_of(program).startswith("MemoryError")


def test_printing_for_ever():
    outcome = run({"program.py": "while True: print('x' * 999)"}, LIMITS)
    assert outcome.status == sandbox.OUTPUT and len(outcome.printed) == LIMITS.output


BOMB = """
import os
started = 0
for _ in range(100):  # bounded, in case the wall should not hold
    try:
        if os.{call}() == 0:
            os._exit(0)
        started += 1
    except OSError:
        pass
print(started)
"""


@pytest.mark.parametrize("call", ["fork", "forkpty"])
def test_a_fork_bomb(call):
    outcome = run({"program.py": BOMB.format(call=call)}, LIMITS)
    assert outcome.printed == "0\n" and outcome.errors == (None,)


@pytest.mark.parametrize(
    "program",
    [
        "import subprocess; subprocess.run(['true'])",
        "import os; assert os.system('true') == 0",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
    ],
)
def test_no_other_program_is_started(program):
    assert error_of(program) is not None


def test_threads_are():
    program = "import threading; t = threading.Thread(target=print, args=(7,)); t.start(); t.join()"
    assert run({"program.py": program}, LIMITS).printed == "7\n"


@pytest.mark.parametrize(
    "family, kind",
    [("AF_INET", "SOCK_STREAM"), ("AF_INET6", "SOCK_DGRAM"), ("AF_UNIX", "SOCK_STREAM")],
)
def test_opening_a_socket(family, kind):
    program = f"import socket; socket.socket(socket.{family}, socket.{kind})"
    assert error_of(program).startswith("PermissionError")


def test_a_pair_of_sockets_is_one_too():
    assert error_of("import socket; socket.socketpair()").startswith("PermissionError")


@pytest.fixture
def outside():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kept.txt")
        path.write_text("mine")
        yield path
        assert path.read_text() == "mine" and os.listdir(folder) == ["kept.txt"]
        assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "what",
    [
        "open({0!r}, 'w')",
        "open({0!r}, 'a')",
        "open({0!r} + '2', 'w')",
        "os.unlink({0!r})",
        "os.rename({0!r}, 'here')",
        "os.link({0!r}, 'here')",
        "os.truncate({0!r}, 0)",
        "os.chmod({0!r}, 0)",
        "os.utime({0!r}, (0, 0))",
        "os.mkdir({0!r} + '3')",
        "os.symlink({0!r}, 'here'); open('here', 'w')",
        "open({0!r})",
        "os.listdir({0!r}.rpartition('/')[0])",
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "os.mkdir('here')",
    ],
)
def test_files_outside_its_directory(what, outside):
    os.chmod(outside, 0o644)
    error = error_of(f"import os; {what.format(str(outside))}")
    assert error.startswith("PermissionError") or "cross-device link" in error


def test_its_own_directory_is_empty_small_and_gone_afterwards():
    program = "import os; print(os.listdir()); open('a', 'w').write('1'); print(os.getcwd())"
    outcome = run({"program.py": program}, LIMITS)
    before, folder = outcome.printed.split("\n")[:2]
    assert before == "[]" and outcome.errors == (None,) and not Path(folder).exists()
    assert error_of("open('a', 'w').write('x' * 2**21)").startswith("OSError")


def test_the_environment_is_cleared(monkeypatch):
    monkeypatch.setenv("SECRET", "42")
    outcome = run({"program.py": "import os, sys; print(sorted(os.environ), sys.argv)"}, LIMITS)
    assert "SECRET" not in outcome.printed and "'program.py'" in outcome.printed


@pytest.mark.parametrize(
    "what",
    [
        "os.kill(PARENT, 0)",
        "os.kill(-1, 0)",
        "resource.prlimit(PARENT, resource.RLIMIT_CORE)",
        "os.sched_setaffinity(PARENT, [0])",
        "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, PARENT)",
        "fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "os.setuid(0) or os.chown('x', 0, 0)",
    ],
)
def test_other_processes_and_rights(what):
    error = error_of(f"import fcntl, os, resource; PARENT = {os.getpid()}; {what}")
    assert error.startswith(("PermissionError", "OSError", "ValueError: not allowed to raise"))


LIES = {
    "exits with 0": "import os; os._exit(0)",
    "leaves": "raise SystemExit(0)",
    "leaves later": "import atexit, os; atexit.register(os._exit, 0); exit()",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "prints results": """
import json
for i in range(2):
    print(json.dumps({"nonce": "", "file": i, "error": None}), flush=True)
import os; os._exit(0)
""",
    "writes into every pipe": """
import contextlib, json, os
lines = [json.dumps({"nonce": "0" * 32, "file": i, "error": None}) for i in range(2)]
for number in range(3, 64):
    with contextlib.suppress(OSError):
        os.write(number, "\\n".join(lines + [""]).encode())
os._exit(0)
""",
    "rewrites its test": "open('test.py', 'w').write('')",
    "ends the pipe": "import os; os.closerange(3, 64)",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_faked_pass(lie):
    outcome = run({"program.py": lie, "test.py": "assert False"}, LIMITS)
    assert None not in outcome.errors[1:], "the test passed"


def test_without_a_folder_nothing_can_be_written(tmp_path):
    code = "from rewards import jail; jail.confine({}); open('a', 'w')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert "PermissionError" in done.stderr and not list(tmp_path.iterdir())


def test_what_a_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "LAYERS", (*sandbox.LAYERS, "moat"))
    with pytest.raises(SandboxError, match="cannot close off moat"):
        run({"program.py": "open('/dev/null')"}, LIMITS, required=sandbox.LAYERS)


def test_limits():
    with pytest.raises(ValueError, match="must be positive"):
        Limits(memory=0)
