"""FILE-6: a short run of benchmarks/fuzz_readers.py, which does the full one."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "fuzz_readers.py"


def test_mutated_files_raise_only_our_errors():
    """Invariant 44, 45: no crash, no hang, no other error, bounded memory, over all readers."""
    command = [sys.executable, str(SCRIPT), "--cases", "300", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout)
    assert tally["failures"] == []
    assert tally["read"] + tally["refused"] == 300
    assert min(tally["read"], tally["refused"]) > 30
    assert tally["peak_mib"] < 500
