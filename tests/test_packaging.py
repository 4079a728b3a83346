"""Each wheel installs alone, with what its metadata asks for, and works; backends at work: ``wheel_use``."""

from __future__ import annotations

import re
import sys
import zipfile

import pytest
from programs import run_program

pytestmark = pytest.mark.slow

PACKAGES = ("contracts", "data", "torch", "tf", "cli")
CONSTRAINTS = {"tf": "constraints-tf.txt"}
EXTRAS = {"tf": "cpu"}
"""What a README has one install before its example."""
USES = {
    "contracts": """
import sys
from ptycho_contracts.config import DataConfig
assert DataConfig(gridsize=3).C == 9
assert not {"scipy", "h5py", "torch"} & set(sys.modules)
""",
    "data": """
from ptycho_data.files import read_scan, write_scan
from ptycho_data.simulate import simulate
write_scan("scan.npz", simulate(n_patterns=9, N=32))
assert len(read_scan("scan.npz")) == 9
""",
    "torch": """
from importlib.metadata import entry_points
(entry,) = entry_points(group="ptycho.backends")
backend = entry.load()
assert entry.name == "torch"
assert all(callable(getattr(backend, name)) for name in ("train", "infer", "reconstruct", "create_training_payload"))
""",
    "tf": """
import sys
import ptycho_tf
assert ptycho_tf.__doc__
assert "tensorflow" not in sys.modules, "TensorFlow is an extra: the package alone must import without it"
""",
    "cli": """
from ptycho_cli.main import main
assert main(["simulate", "scan.npz", "--patterns", "9", "--N", "32", "--quiet"]) == 0
assert main(["inspect", "scan.npz", "--output-dir", "previews"]) == 0
assert main(["reconstruct", "scan.npz", "--output-dir", "out"]) == 2
""",
}


@pytest.mark.parametrize("name", PACKAGES)
def test_the_wheel_holds_typed_sources_licence_and_nothing_else(wheels, name):
    (path,) = wheels.glob(f"ptycho_{name}-*.whl")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert f"ptycho_{name}/py.typed" in names
    assert any(entry.endswith("licenses/LICENSE") for entry in names)
    strangers = [entry for entry in names if not entry.startswith((f"ptycho_{name}/", f"ptycho_{name}-0."))]
    assert strangers == []
    assert not [entry for entry in names if entry.endswith((".pyc", ".npz", ".npy"))]


@pytest.mark.parametrize("name", PACKAGES)
def test_the_wheel_installs_alone_and_works(wheels, repository, tmp_path, name):
    """In a new environment, with nothing but the wheel and what it asks for; so do the examples of its README."""
    run_program(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = wheels.glob(f"ptycho_{name}-*.whl")
    constraints = repository / CONSTRAINTS.get(name, "constraints.txt")
    install = (python, "-m", "pip", "install", "--quiet", "--find-links", wheels, "-c", constraints)
    run_program(*install, wheel, cwd=tmp_path)
    run_program(python, "-m", "pip", "check", cwd=tmp_path)
    folder = tmp_path / "work"
    folder.mkdir()
    run_program(python, "-W", "error", "-c", USES[name], cwd=folder)
    readme = (repository / "packages" / f"ptycho-{name}" / "README.md").read_text(encoding="utf-8")
    before, *blocks = re.split(r"^```python\n", readme, flags=re.MULTILINE)
    if name in EXTRAS:
        assert f'pip install "ptycho-{name}[{EXTRAS[name]}]"' in before
        run_program(*install, f"{wheel}[{EXTRAS[name]}]", cwd=tmp_path)
    for block in blocks:
        run_program(python, "-c", block.split("```")[0], cwd=folder, env={"OMP_NUM_THREADS": "1"})
    assert blocks or name == "cli"  # its examples are commands, which tests/test_docs.py parses
