"""CPUs available in a container: the affinity mask, and the quota of its control group, in both versions."""

import os

import pytest

from olivine import available_cpus as processors
from olivine.available_cpus import available_cpus, cgroup_quota, limit_threads


def group(root, path, **files):
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


@pytest.fixture
def container(tmp_path):
    """A function that writes /proc/self/cgroup and gives the quota found."""

    def quota(lines):
        (tmp_path / "proc").write_text(lines)
        return cgroup_quota(tmp_path / "proc", tmp_path)

    return quota


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("max 100000\n", None),
        ("", None),
        ("nonsense\n", None),
        ("200000 0\n", None),
    ],
)
def test_version_two(container, tmp_path, content, expected):
    group(tmp_path, ".", cpu__max=content)
    assert container("0::/\n") == expected


def test_the_smallest_quota_of_a_group_and_its_parents_counts(container, tmp_path):
    group(tmp_path, "pod/box", cpu__max="max 100000")
    group(tmp_path, "pod", cpu__max="300000 100000")
    group(tmp_path, ".", cpu__max="800000 100000")
    assert container("0::/pod/box\n") == 3.0


def test_version_one(container, tmp_path):
    group(tmp_path, "cpu,cpuacct/box", cpu__cfs_quota_us="400000\n", cpu__cfs_period_us="100000\n")
    assert container("4:cpu,cpuacct:/box\n3:memory:/box\n") == 4.0
    group(tmp_path, "cpu,cpuacct/box", cpu__cfs_quota_us="-1\n")
    assert container("4:cpu,cpuacct:/box\n") is None


def test_without_groups_there_is_no_quota(tmp_path):
    assert cgroup_quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(
    ("allowed", "quota", "expected"), [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (1, 4.0, 1), (8, 0.1, 1)]
)
def test_cores(monkeypatch, allowed, quota, expected):
    monkeypatch.setattr(processors, "allowed_cores", lambda: allowed)
    monkeypatch.setattr(processors, "cgroup_quota", lambda: quota)
    assert available_cpus() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone says which processors are allowed")
def test_affinity_counts():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("quota", "given", "expected"),
    [
        (2.0, {}, {"OMP_NUM_THREADS": "2"}),
        (None, {}, {}),
        (2.0, {"OMP_NUM_THREADS": "5"}, {"OMP_NUM_THREADS": "5"}),
        (2.0, {"MKL_NUM_THREADS": "5"}, {"MKL_NUM_THREADS": "5"}),
    ],
)
def test_libraries_start_as_many_threads_as_the_quota_allows(monkeypatch, quota, given, expected):
    monkeypatch.setattr(processors, "allowed_cores", lambda: 64)
    monkeypatch.setattr(processors, "cgroup_quota", lambda: quota)
    limit_threads(given)
    assert given == expected
