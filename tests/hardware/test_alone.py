"""A robot's computer needs neither torch nor a simulator."""

import subprocess
import sys
from pathlib import Path

CODE = """
import importlib, pkgutil, sys
for name in ("torch", "mujoco", "gymnasium", "envs", "policies", "embodied.core.trainer"):
    sys.modules[name] = None  # importing it fails now
import hardware
for module in pkgutil.iter_modules(hardware.__path__):
    importlib.import_module(f"hardware.{module.name}")
print(len(hardware.__all__))
"""


def test_every_module_imports_without_them():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
