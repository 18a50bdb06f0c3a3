"""What a step asks of a device: launches, bytes and operations, counted without one, on the meta device.

A launch is one kernel that torch's CUDA backend starts. These are the rules by which `DeviceCalls` counts:

views       reshaping, slicing and allocating launch nothing; neither does what touches host tensors alone
foreach     torch's multi-tensor kernels take a list in pieces: 65,536 entries are a chunk, and one launch takes at most
            320 chunks of at most 110, 64, 48, 36 or 30 tensors (for 1 to 5 lists of operands and results). Lists
            whose tensors differ in size, strides or dtype from list to list, or that are not dense, go one by one
            (torch's slow route), whatever the call looks like
norms       a foreach norm also clears its partial sums and gathers them: two launches more
joining     `cat` and `stack` take 128 inputs per launch
the rest    one launch for each call that reaches the dispatcher

A call's bytes are those of its tensors: what is only written counts once, what is changed in place twice, an expanded
tensor by the entries it really has. Caches count for nothing. Operations are torch's own count of matrix products.

Decompositions (`eigh`, `svd`, `qr`) count as one launch, which is too few by far.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

CHUNK: Final = 65_536
MOST_CHUNKS: Final = 320
MOST_TENSORS: Final = (110, 64, 48, 36, 30)
MOST_JOINED: Final = 128

# These only allocate, or change what is known of a tensor.
_FREE: Final = frozenset(
    {
        "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "resize_", "set_",
        "_unsafe_view", "alias", "lift_fresh", "detach_", "squeeze_", "unsqueeze_", "transpose_", "t_", "is_same_size",
        "_has_compatible_shallow_copy_type",
    }
)  # fmt: skip
_WRITE_ONLY: Final = frozenset({"copy_", "fill_", "zero_", "_foreach_copy_", "_foreach_zero_"})


@dataclass
class CallCount:
    """Launches, bytes moved and floating-point operations."""

    launches: int = 0
    moved_bytes: int = 0
    flops: int = 0
    by_name: Counter[str] = field(default_factory=Counter)  # launches by the name of the operation


class DeviceCalls(TorchDispatchMode):
    """Counts, within it, what a device would be asked to do.

    Example:
        >>> weight = torch.empty(64, 128, device="meta")
        >>> with DeviceCalls() as calls:
        ...     _ = (weight @ weight.mT).t().mul_(2)
        >>> calls.count.launches
        2
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = CallCount()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in _FREE or _is_view(func):
            return result

        given = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        if any(tensor.device.type != "cpu" for tensor in (*given, *_tensors(result))):
            launches = _launches(name, args, result)
            self.count.launches += launches
            self.count.by_name[name] += launches
            self.count.moved_bytes += _moved_bytes(name, func, args, kwargs, result)
            if func.overloadpacket in flop_registry:
                flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
                self.count.flops += int(flops)
        return result


def _is_view(func: Any) -> bool:
    """Whether what is returned shares memory with an argument that is not written to."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _launches(name: str, args: Any, result: Any) -> int:
    if name in ("cat", "stack"):
        return math.ceil(len(args[0]) / MOST_JOINED)
    if not name.startswith("_foreach_"):
        return 1

    lists = [list(arg) for arg in args if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor)]
    if not lists or not lists[0]:
        return 0
    if name == "_foreach_norm":
        return multi_tensor_launches([t.numel() for t in lists[0]], 1) + 2 if _is_fast(lists, name) else len(lists[0])
    if result is not None:
        lists.append(list(result))
    if not _is_fast(lists, name):
        return len(lists[0])
    return multi_tensor_launches([tensor.numel() for tensor in lists[0]], len(lists))


def _is_fast(lists: Sequence[Sequence[Tensor]], name: str) -> bool:
    """Whether torch's multi-tensor kernel takes these lists."""
    first = lists[0][0]
    for tensors in zip(*lists, strict=True):
        layout = tensors[0].shape, tensors[0].stride()
        if any((tensor.shape, tensor.stride()) != layout or tensor.device != first.device for tensor in tensors):
            return False
        if not is_dense(tensors[0]):
            return False
    columns = [{tensor.dtype for tensor in tensors} for tensors in lists]
    if name == "_foreach_copy_":  # from one dtype to one other
        return all(len(dtypes) == 1 for dtypes in columns)
    return all(dtypes == {first.dtype} for dtypes in columns)


def is_dense(tensor: Tensor) -> bool:
    """Whether the entries fill their memory without gaps or overlaps, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def multi_tensor_launches(sizes: Sequence[int], depth: int) -> int:
    """Launches for tensors with so many entries, `depth` lists of them, as torch's `multi_tensor_apply` packs them."""
    launches = tensors = chunks = 0
    for size in sizes:
        if size == 0:
            continue
        tensors += 1
        pieces = math.ceil(size / CHUNK)
        for piece in range(pieces):
            chunks += 1
            is_last = piece == pieces - 1
            if chunks == MOST_CHUNKS or (tensors == MOST_TENSORS[depth - 1] and is_last):
                launches += 1
                chunks = 0
                tensors = 0 if is_last else 1
    return launches + (chunks > 0)


def _moved_bytes(name: str, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    """Bytes read and written."""
    total = 0
    written: set[int] = set()
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        is_out = is_written and argument.is_out
        times = 1 if not is_written or is_out or name in _WRITE_ONLY else 2
        for tensor in _tensors(value):
            total += times * _extent(tensor)
            if is_written:
                written.add(id(tensor))
    return total + sum(_extent(tensor) for tensor in _tensors(result) if id(tensor) not in written)


def _extent(tensor: Tensor) -> int:
    """Bytes of the entries that a tensor really has: an expanded dimension has one. Host tensors have none."""
    if tensor.device.type == "cpu":
        return 0
    entries = math.prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0
    )
    return entries * tensor.element_size()
