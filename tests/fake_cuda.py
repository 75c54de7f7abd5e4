"""CUDA tensors without a GPU: shapes, types and devices as on a card, but no values (FakeTensorMode).

Inside `fake_cuda`, mixed devices and mixed types raise an error as on a GPU. Each launch of a kernel is counted, and
each operation that makes the CPU wait for the GPU is recorded with the line that causes it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

aten = torch.ops.aten
SOURCE = Path(__file__).with_suffix(".cpp")
TESTS = SOURCE.parent

_NO_KERNEL = {"device", "lift_fresh", "resize_", "set_", "_local_scalar_dense", "detach", "detach_", "as_strided"}
_NO_KERNEL |= {
    "_unsafe_view",
    "_reshape_alias",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
"""Operations that launch no kernel, besides those that only make a view."""
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}
_PRODUCTS |= {"_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"}
"""Operations whose inputs must have one floating type."""
_KEY_ALIGNMENT = 8
"""The attention kernel for masks reads a mask whose rows are padded to a multiple of this length."""


_has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
_DRIVER: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "init": lambda: None,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda _: None,
    "get_device_name": lambda *_: "fake GPU",
    "get_device_capability": lambda *_: (9, 0),
    "is_bf16_supported": lambda **_: True,
    "manual_seed_all": lambda _: None,
    "empty_cache": lambda: None,
}
"""What torch.cuda answers and does."""


class FakeGpu(TorchDispatchMode):  # type: ignore[misc]
    """Counts the kernels of a fake GPU, and the operations that make the CPU wait for it.

    `kernels`: the launches by operation. `syncs`: the waits by cause and line. Values that are read from the GPU are
    made up: a number is 1, and a list has random ids.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self._random = random.Random(0)

    @property
    def launches(self) -> int:
        return self.kernels.total()

    def clear(self) -> None:
        """Start counting again."""
        self.kernels.clear()
        self.syncs.clear()

    def wait(self, cause: str) -> None:
        """Record that the CPU waits for the GPU."""
        self.syncs[f"{cause}: {_calling_line()}"] += 1

    @property
    def read_list(self) -> Callable[[torch.Tensor], list[Any]]:
        """The method `tolist` of fake tensors: one wait for the whole list, with random values."""

        def values(tensor: torch.Tensor) -> Any:
            if tensor.dim():
                return [values(tensor[0]) for _ in range(tensor.shape[0])]
            return -1.0 if tensor.is_floating_point() else self._random.randrange(5, 1000)

        def tolist(tensor: torch.Tensor) -> Any:
            if tensor.is_cuda:
                self.wait("read a list")
            return values(tensor)

        return tolist

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_composite = func.namespace == "aten" and _has_kernel(func.name(), "CompositeImplicitAutograd")
        if is_composite and torch.is_inference_mode_enabled():
            with self:  # autograd, which takes such an operation apart otherwise, is off
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket._qualified_op_name.partition("::")[2]
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        on_gpu = any(one.is_cuda for one in tensors)
        if name == "_local_scalar_dense" and on_gpu:
            self.wait("read a number")
            return 1.0 if tensors[0].is_floating_point() else True if tensors[0].dtype == torch.bool else 1
        if on_gpu and _needs_values(func, tensors):
            self.wait(f"{name} needs values")
        if name in _PRODUCTS and "dtype" not in func._overloadname:  # unless the type of the result is given
            kinds = {one.dtype for one in tensors if one.is_floating_point()}
            assert len(kinds) <= 1, f"{name} of {sorted(map(str, kinds))}: {_calling_line()}"
        out = func(*args, **kwargs)
        made = [one for one in tree_leaves(out) if isinstance(one, torch.Tensor)]
        if name in ("_to_copy", "copy_") and len({one.device.type for one in (*tensors, *made)}) > 1:
            non_blocking = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if not non_blocking:
                self.wait(f"copy to the {'GPU' if made[0].is_cuda else 'CPU'}")
        elif (on_gpu or any(one.is_cuda for one in made)) and not (func.is_view or name in _NO_KERNEL):
            self.kernels[name] += 1
        return out


def _needs_values(func: Any, tensors: list[torch.Tensor]) -> bool:
    """Return whether the CPU must know the values of an operation to continue, such as how many are not zero."""
    if func is aten.index.Tensor:
        return any(one.dtype == torch.bool for one in tensors[1:])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


class _AsOnCuda(TorchFunctionMode):  # type: ignore[misc]
    """Replaces what torch's CPU build does in another way than a build for CUDA: attention and pinned memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].is_cuda:
            return _fused_attention(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        return func(*args, **kwargs)


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute attention with the kernels that torch chooses on CUDA without cuDNN: flash attention, or
    memory-efficient attention if there is a mask."""
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (one.to(torch.get_autocast_dtype("cuda")) for one in (query, key, value))
    if enable_gqa:
        copies = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    assert attn_mask.device == query.device
    if attn_mask.dtype == torch.bool:
        seen, unseen = (torch.full((), fill, dtype=query.dtype, device=query.device) for fill in (0.0, float("-inf")))
        attn_mask = torch.where(attn_mask, seen, unseen)
    keys = attn_mask.shape[-1]
    if keys % _KEY_ALIGNMENT:
        attn_mask = aten.constant_pad_nd(attn_mask, [0, -keys % _KEY_ALIGNMENT], 0.0)[..., :keys]
    attn_mask = attn_mask.expand(*query.shape[:3], keys)
    needs_gradient = query.requires_grad or key.requires_grad or value.requires_grad
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, needs_gradient, dropout_p, is_causal, scale=scale
    )[0]


def _calling_line() -> str:
    """Return the innermost line outside torch and this file. A line of toolhone or of a test is preferred."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    files = [(one.f_code.co_filename, one.f_lineno) for one in frames if one.f_code.co_filename != __file__]
    outside = [place for place in files if "/torch/" not in place[0] and not place[0].startswith("<")]
    path, line = outside[0]
    return f"{path.rpartition('site-packages/')[2].rpartition('/src/')[2].removeprefix(f'{TESTS}/')}:{line}"


@contextmanager
def fake_cuda(library: Path) -> Iterator[FakeGpu]:
    """Give torch a fake GPU, cuda:0, for everything inside. Tensors of the CPU are fake too.

    Autograd runs on the calling thread, because torch starts the thread of a device only once.
    """
    stub = ctypes.CDLL(str(library))
    gpu = FakeGpu()
    with ExitStack() as stack:
        stub.install()
        stack.callback(stub.uninstall)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(patch.object(FakeTensorMode, "avoid_device_init", True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))  # data of the CPU is real
        stack.enter_context(patch.object(FakeTensor, "tolist", gpu.read_list))
        stack.enter_context(patch.object(FakeTensor, "data_ptr", lambda tensor: tensor.untyped_storage()._cdata))
        stack.enter_context(patch.object(torch.nn.Module, "_apply", _replace_tensors))
        stack.enter_context(patch.object(DataLoader, "__iter__", _iterate_on_cpu))
        for name, answer in _DRIVER.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        stack.enter_context(_AsOnCuda())
        stack.enter_context(gpu)
        yield gpu


def real_cpu() -> AbstractContextManager[Any]:
    """Inside `fake_cuda`: let the CPU compute with real tensors, without the fake GPU."""
    manager: AbstractContextManager[Any] = _disable_current_modes()
    return manager


def _iterate_on_cpu(loader: DataLoader[Any]) -> Iterator[Any]:
    """DataLoader.__iter__, with real tensors."""
    with real_cpu():
        batches = _iterate(loader)
    while True:
        with real_cpu():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


_iterate = DataLoader.__iter__


def _replace_tensors(module: torch.nn.Module, convert: Callable[[torch.Tensor], torch.Tensor], **_: Any) -> Any:
    """Module._apply. torch's own one swaps the contents of two tensors, which fake tensors refuse."""
    known: dict[int, torch.Tensor] = {}  # tied weights stay tied

    def converted(tensor: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            made = convert(tensor)
        is_weight = isinstance(tensor, torch.nn.Parameter) and made is not tensor
        return torch.nn.Parameter(made, requires_grad=tensor.requires_grad) if is_weight else made

    for one in module.modules():
        for tensors in (one._parameters, one._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in known:
                        known[id(tensor)] = converted(tensor)
                    tensors[name] = known[id(tensor)]
    return module


@contextmanager
def autocast() -> Iterator[None]:
    """torch.autocast("cuda", torch.bfloat16), which refuses to start without a driver."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


def build_stub(folder: Path) -> Path:
    """Compile the stub into a folder, unless it is already there. The test is skipped if that is impossible here."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if torch.version.cuda is not None:
        pytest.skip("this build of torch has CUDA; the stub replaces it only in a build for CPUs")
    if compiler is None or sys.platform != "linux":
        pytest.skip("fake CUDA tensors need Linux and a C++ compiler (apt-get install g++)")
    root = Path(torch.__file__).parent
    key = hashlib.sha256(SOURCE.read_bytes() + f"{torch.__version__} {root}".encode()).hexdigest()[:16]
    library = folder / f"fake_cuda-{key}.so"
    if not library.exists():
        draft = folder / f"{library.name}.{os.getpid()}"
        command = [compiler, "-shared", "-fPIC", "-O1", "-std=c++20", f"-I{root / 'include'}", str(SOURCE)]
        command += ["-o", str(draft), f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        draft.replace(library)
    return library
