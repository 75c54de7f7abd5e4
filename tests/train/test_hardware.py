"""The peak memory of a stage."""

from __future__ import annotations

import gc
import sys

import pytest
import torch

from toolhone.train.hardware import peak_memory_gb, release_memory, reset_peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can reset the peak of resident memory")
def test_the_peak_of_a_stage_does_not_include_earlier_stages() -> None:
    large = torch.ones(100_000_000)  # 0.4 GB
    before = peak_memory_gb("cpu")
    assert before > 0.4
    del large
    gc.collect()
    release_memory("cpu")
    reset_peak_memory("cpu")
    after = peak_memory_gb("cpu")
    assert after < before - 0.3
    small = torch.ones(25_000_000)  # 0.1 GB
    assert after + 0.05 < peak_memory_gb("cpu") < after + 0.2
    del small


def test_the_peak_on_a_gpu_is_that_of_torchs_allocator_since_the_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [7.5e9]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 1e9))
    assert peak_memory_gb("cuda") == 7.5
    reset_peak_memory("cuda")
    assert peak_memory_gb("cuda") == 1.0
