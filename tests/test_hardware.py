"""The machine without torch: what files and NVML tell."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from jorge_tune.hardware import (
    Gpu,
    Nvidia,
    cpu_name,
    nvidia,
    oom_kills,
    scheduling,
    torch_cuda_build,
    usable_cores,
    visible_gpus,
)

A100, H100 = Gpu("NVIDIA A100", "GPU-aa11"), Gpu("NVIDIA H100", "GPU-bb22")
TWO = Nvidia("580.1", (A100, H100))


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (None, (A100, H100)),
        ("", ()),
        ("-1", ()),
        ("1", (H100,)),
        ("1,0", (H100, A100)),
        ("0,7,1", (A100,)),  # CUDA stops at the first that it does not know
        ("GPU-bb", (H100,)),
        ("MIG-5", (Gpu("NVIDIA A100, a slice of it", "MIG-5"),)),
    ],
)
def test_the_visible_gpus_are_cudas(asked, seen):
    environment = {} if asked is None else {"CUDA_VISIBLE_DEVICES": asked}
    assert visible_gpus(TWO, environment) == seen


def test_without_a_driver_there_is_no_gpu():
    assert visible_gpus(None, {}) == ()


def test_torchs_build_is_read_from_its_files():
    assert torch_cuda_build() == torch.version.cuda


def test_nvml_agrees_with_torch():
    found = visible_gpus(nvidia())
    assert len(found) >= torch.cuda.device_count()
    if torch.cuda.is_available():
        assert found[0].name == torch.cuda.get_device_name(0)


def test_the_processor_has_a_name_and_cores():
    assert cpu_name().strip()
    assert len(usable_cores()) >= 1
    assert list(usable_cores()) == sorted(usable_cores())


def test_time_on_a_core_is_counted_for_all_threads():
    before = scheduling()
    if before is None:
        pytest.skip("this system does not count it")

    def work():
        sum(range(3_000_000))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=0)
    work()
    used = os.times()
    after = scheduling()
    thread.join()
    assert after.ran > before.ran
    assert after.waited >= before.waited
    assert after.ran <= used.user + used.system + 1.0


V2, V1 = "30 25 0:26 {root} {at} rw,nosuid - cgroup2 cgroup rw", "35 31 0:32 {root} {at} rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("groups", "mount", "root", "file"),
    [
        ("0::/user.slice/a.scope\n", V2, "/", "user.slice/a.scope/memory.events"),
        ("0::/\n", V2, "/", "memory.events"),
        ("8:pids:/\n4:memory:/job/7\n0::/\n", V1, "/", "job/7/memory.oom_control"),
        ("4:memory:/docker/ab\n", V1, "/docker/ab", "memory.oom_control"),
        ("4:cpu,memory:/docker/ab/in\n", V1, "/docker/ab", "in/memory.oom_control"),
    ],
)
def test_kills_for_memory_are_counted_by_the_control_group(tmp_path, groups, mount, root, file):
    (tmp_path / "cgroup").write_text(groups)
    elsewhere = V1.format(root="/another", at=tmp_path / "elsewhere")
    (tmp_path / "mountinfo").write_text(f"{elsewhere}\n{mount.format(root=root, at=tmp_path / 'tree')}\n")
    machine = oom_kills(tmp_path)
    assert machine == oom_kills(tmp_path / "no such process")
    path = tmp_path / "tree" / file
    path.parent.mkdir(parents=True)
    path.write_text("oom 9\noom_kill 7003\noom_group_kill 1\n")
    assert oom_kills(tmp_path) == 7003 != machine
