"""What importing does: nothing but importing."""

import json
import pkgutil
import subprocess
import sys

import ptycho_contracts
import pytest

MODULES = [module.name for module in pkgutil.walk_packages(ptycho_contracts.__path__, "ptycho_contracts.")]

SCRIPT = """
import importlib, json, random, sys
import numpy, hypothesis  # their own effects are not ours

opened = []
def watch(event, args):
    if event == "open" and not str(args[0]).endswith((".py", ".pyc", ".so")):
        opened.append(str(args[0]))
sys.addaudithook(watch)
random.seed(1)
numpy.random.seed(1)
before = random.getstate(), repr(numpy.random.get_state())
importlib.import_module(sys.argv[1])
after = random.getstate(), repr(numpy.random.get_state())
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"opened": opened, "random_untouched": before == after, "loaded": loaded}))
"""


def test_the_modules_are_found():
    assert {"ptycho_contracts.config", "ptycho_contracts.testing.reference"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_importing_has_no_effects(module):
    """Invariant 32: no file read, no framework, no random state touched."""
    done = subprocess.run([sys.executable, "-B", "-c", SCRIPT, module], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["opened"] == []
    assert seen["random_untouched"]
    assert not {"torch", "tensorflow", "lightning", "keras", "scipy", "h5py"} & set(seen["loaded"])


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith(".strategies")])
def test_hypothesis_is_needed_by_the_strategies_alone(module):
    """Users of the package need not install the extra ``testing``."""
    script = f"import sys; sys.modules['hypothesis'] = None; import {module}"
    subprocess.run([sys.executable, "-B", "-c", script], check=True)
