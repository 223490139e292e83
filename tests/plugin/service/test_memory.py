"""How much memory there is, as control groups of both versions say."""

import os

import pytest

from plugin.service.memory import available_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
NONE_V1 = "9223372036854771712"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {f"{V2}/memory.max": "1048576\n"}, 1 << 20),
        ("0::/\n", {f"{V2}/memory.max": "max\n"}, MACHINE),
        ("0::/pod/app\n", {f"{V2}/pod/app/memory.max": "max\n", f"{V2}/pod/memory.max": "4096\n"}, 4096),
        ("0::/a\n", {f"{V2}/a/memory.max": "4096\n", f"{V2}/memory.max": "8192\n"}, 4096),
        ("0::/../../other\n", {f"{V2}/memory.max": "4096\n"}, 4096),
        ("4:memory:/x\n0::/\n", {f"{V1}/memory.limit_in_bytes": "4096\n"}, 4096),
        ("4:cpu,memory:/x\n", {f"{V1}/x/memory.limit_in_bytes": "4096\n"}, 4096),
        ("4:memory:/\n", {f"{V1}/memory.limit_in_bytes": NONE_V1}, MACHINE),
        ("4:cpu:/\n", {f"{V1}/memory.limit_in_bytes": "4096\n"}, MACHINE),
        ("nonsense", {}, MACHINE),
        ("0::/\n", {f"{V2}/memory.max": str(MACHINE * 2)}, MACHINE),
    ],
)
def test_the_lowest_limit_counts(tmp_path, cgroup, files, expected):
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


def test_without_control_groups_it_is_the_machines(tmp_path):
    assert available_memory(tmp_path) == MACHINE
    assert 0 < available_memory() <= MACHINE
