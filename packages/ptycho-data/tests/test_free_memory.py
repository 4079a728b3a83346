"""MEMORY: what is free, by machine, control groups and limits of the process."""

import resource
import subprocess
import sys
import textwrap

import pytest
from ptycho_contracts.problems import ContractError
from ptycho_data import free_memory
from ptycho_data.free_memory import available_bytes, require_memory

GIB = 1 << 30


def system(root, files):
    """A machine with 8 GiB free and these further files."""
    for name, text in {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = "sys/fs/cgroup/job/step"
V1 = "sys/fs/cgroup/memory/job"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                f"{V2}/memory.max": f"{4 * GIB}\n",
                f"{V2}/memory.current": f"{3 * GIB}\n",
                f"{V2}/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
            },
            GIB + GIB // 2,
        ),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                f"{V2}/memory.max": "max\n",
                f"{V2}/memory.current": "7\n",
                "sys/fs/cgroup/job/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/job/memory.current": f"{GIB}\n",
            },
            GIB,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n3:memory,hugetlb:/job\n0::/\n",
                f"{V1}/memory.limit_in_bytes": f"{3 * GIB}\n",
                f"{V1}/memory.usage_in_bytes": f"{GIB}\n",
                f"{V1}/memory.stat": "total_inactive_file 4096\n",
            },
            2 * GIB + 4096,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "100\n",
                "sys/fs/cgroup/memory.current": "300\n",
            },
            0,
        ),
        ({"proc/self/cgroup": "nonsense\n\n0::/gone\n"}, 8 * GIB),
    ],
    ids=["machine", "version 2", "a group above", "version 1", "nothing left", "no group"],
)
def test_the_least_of_machine_and_groups_counts(tmp_path, files, expected):
    assert available_bytes(system(tmp_path, files)) == expected


def test_limits_of_the_process_count(tmp_path, monkeypatch):
    """``ulimit -v`` less what the process has mapped."""
    root = system(tmp_path, {"proc/self/status": f"Name: x\nVmSize: {GIB // 1024} kB\nVmData: 1 kB\n"})
    limits = {resource.RLIMIT_AS: 3 * GIB, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr("resource.getrlimit", lambda kind: (limits[kind], limits[kind]))
    assert available_bytes(root) == 2 * GIB
    limits[resource.RLIMIT_DATA] = GIB
    assert available_bytes(root) == GIB - 1024


def test_a_real_limit_is_seen():
    """In a process of its own, under ``ulimit -v``."""
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        from ptycho_data.free_memory import available_bytes
        print(available_bytes())
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert 0 < int(result.stdout) < 3 << 30


def test_the_rule_refuses_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(free_memory, "available_bytes", lambda: 2_000_000_000)
    require_memory(2_000_000_000, where="x", remedy="y")
    with pytest.raises(ContractError, match=r"x: expected at most the 2 GB of free memory, found 2.5 GB needed; y"):
        require_memory(2_500_000_000, where="x", remedy="y")
    monkeypatch.setattr(free_memory, "available_bytes", lambda: None)
    require_memory(1 << 60, where="x", remedy="y")
