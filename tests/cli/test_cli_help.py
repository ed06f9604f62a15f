"""Help teaches, and the command line answers fast because it imports nothing heavy."""

import subprocess
import sys

import pytest

from embodied.core import registry

COMMANDS = (
    *("train", "eval", "collect", "methods", "report", "reproduce", "deploy", "hardware", "data"),
)


def test_help_lists_the_commands_and_shows_examples(embodied):
    status, out, _ = embodied("--help")
    assert status == 0
    assert all(f"    {command}" in out for command in COMMANDS)
    assert "embodied train method=wsrl" in out
    assert embodied()[:2] == (0, out)


def test_help_of_train_teaches(embodied):
    status, out, _ = embodied("train", "--help")
    assert status == 0
    for word in ("method=", "env=", "data=", "resume=", "-m seed=1,2,3", "--settings", "Ctrl-C"):
        assert word in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(embodied, command):
    status, out, _ = embodied(command, "--help")
    assert status == 0
    assert f"usage: embodied {command}" in out


def test_unknown_command(refused):
    message = refused("trian")
    assert "'trian'" in message
    assert "'train'" in message


def test_unknown_option(refused):
    assert "--sed" in refused("train", "seed=1", "--sed", "2")


def test_settings_are_listed_with_their_values(embodied):
    status, out, _ = embodied("train", "method=iql", "seed=3", "--settings", "data=here")
    assert status == 0
    lines = out.splitlines()
    assert {"method_id=iql", "seed=3", "data=here", "run=null"} <= set(lines)
    assert any(line.startswith("method.expectile=") for line in lines)


def test_methods(embodied):
    status, out, _ = embodied("methods")
    assert status == 0
    for method in registry.methods().values():
        assert f" {method.id} " in out
        assert method.paper in out.replace("\n", "")


def test_imports_are_light():
    heavy = "torch mujoco hydra omegaconf gymnasium matplotlib rich numpy"
    code = (
        "import sys, embodied, embodied.cli\n"
        "try: embodied.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        f"print('loaded:', *[m for m in {heavy.split()} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]
