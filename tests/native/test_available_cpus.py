"""How many threads a container's limits allow."""

import os

import pytest

from bowsprit_engine.native import cpus
from bowsprit_engine.native.cpus import available_cpus, quota_cpus


def written(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "own"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1.0),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "250000 100000"}, 2.5),
        ("1:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (
            "2:cpuset:/x\n1:cpu:/pods/one\n",
            {"cpu/pods/one/cpu.cfs_quota_us": "300000", "cpu/pods/one/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("0::/../../elsewhere\n", {}, None),
        ("garbage", {}, None),
    ],
)
def test_the_tightest_quota_of_either_cgroup_version_holds(tmp_path, own, files, expected):
    """At the mount's root, as containers see it, and along the path, as the host does."""
    written(tmp_path, files | {"own": own})

    assert expected == quota_cpus(tmp_path, tmp_path / "own")


@pytest.mark.parametrize(
    ("allowed", "quota", "expected"), [(8, None, 8), (8, 2.5, 2), (8, 0.5, 1), (2, 16.0, 2), (1, None, 1)]
)
def test_threads_follow_affinity_and_quota(monkeypatch, allowed, quota, expected):
    """Whole processors, at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    monkeypatch.setattr(cpus, "quota_cpus", lambda: quota)

    assert expected == available_cpus()


@pytest.mark.parametrize(
    ("machine", "allowed", "quota", "threads", "expected"),
    [
        (8, {2, 5}, None, 2, [2, 5]),
        (8, {2, 5}, None, 1, []),
        (8, {2, 5}, 2.0, 2, []),
        (2, {0, 1}, None, 2, []),
    ],
)
def test_threads_are_pinned_only_to_processors_of_their_own(monkeypatch, machine, allowed, quota, threads, expected):
    """Two engines on a shared machine would pin to the same ones."""
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed)
    monkeypatch.setattr(cpus, "quota_cpus", lambda: quota)

    assert expected == cpus.cpus_to_pin(threads)
