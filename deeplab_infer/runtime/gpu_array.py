# SPDX-License-Identifier: Apache-2.0
"""Arrays on a GPU as packages pass them to each other: ``__cuda_array_interface__`` and DLPack."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError

_DLPACK_CUDA = 2
_LEGACY_DEFAULT_STREAM = 1  # CUDA's own name for it
_DLPACK_CODES = {"b": 6, "i": 0, "u": 1, "f": 2}


class Memory(Protocol):
    """Who owns an array's memory."""

    def synchronise(self, stream: int) -> None:
        """Wait for a stream."""
        ...

    def to_host(self, array: GpuArray) -> NDArray[Any]:
        """A copy of an array."""
        ...

    def free_async(self, address: int, stream: int) -> None:
        """Give memory back."""
        ...


class GpuArray:
    """A contiguous array in a GPU's memory.

    ``torch.as_tensor(array, device="cuda")``, ``torch.from_dlpack(array)``, ``cupy.asarray(array)`` and
    ``numba.cuda.as_cuda_array(array)`` use it in place.

    Attributes:
        address: of the first element.
        shape, dtype: as numpy's.
        device: number of the GPU.
        stream: ``cudaStream_t`` that the work on it is in; 0 where it is complete.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        device: int = 0,
        stream: int = 0,
        owner: Memory | None = None,
    ) -> None:
        """Describe memory; with ``owner`` it is given back when the last user lets go."""
        self.address, self.shape, self.dtype, self.device, self.stream = address, shape, dtype, device, stream
        self._owner = owner

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        description = {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }
        return description | ({"stream": self.stream} if self.stream else {})

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CUDA, self.device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        # DLPack cannot name the producer's stream: another stream gets complete data.
        if self._owner is not None and self.stream and stream != self.stream:
            self._owner.synchronise(self.stream)
        return dlpack_capsule(self, *self.__dlpack_device__())

    def numpy(self) -> NDArray[Any]:
        """A copy in host memory; waits until the array is complete."""
        if self._owner is None:
            raise ValueError("this array is a view of a runner's buffer; copy it while the runner works on it")
        return self._owner.to_host(self)

    def __del__(self) -> None:
        if getattr(self, "_owner", None) is not None:
            self._owner.free_async(self.address, self.stream)  # type: ignore[union-attr]
            self._owner = None

    def __repr__(self) -> str:
        return f"GpuArray(shape={list(self.shape)}, dtype={self.dtype}, device=cuda:{self.device})"


def is_gpu_array(value: Any) -> bool:
    """Whether an object is an array in a GPU's memory."""
    # torch raises from its property for tensors on the CPU, numpy has none.
    return getattr(value, "is_cuda", True) and hasattr(value, "__cuda_array_interface__")


def as_gpu_pixels(image: Any) -> GpuArray:
    """A uint8 image on a GPU, used in place.

    Args:
        image: an object with ``__cuda_array_interface__``: uint8 [H, W, 3] or [N, H, W, 3] RGB, C-contiguous.

    Returns:
        A view [N, H, W, 3] in the stream of its owner.

    Raises:
        ImageError: another type, shape or layout.
    """
    interface = image.__cuda_array_interface__
    shape = tuple(int(side) for side in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    if dtype != np.uint8 or len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
        raise ImageError(
            f"an image on the GPU must be uint8 [H, W, 3] or [N, H, W, 3] RGB, got {dtype} {list(shape)}; convert it "
            "there, or pass it from host memory, which takes more kinds"
        )
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != _contiguous_strides(shape):
        raise ImageError(
            f"an image on the GPU must be C-contiguous [.., H, W, 3], got strides {list(strides)}; make it contiguous, "
            "for example with .contiguous() or cupy.ascontiguousarray"
        )
    full = shape if len(shape) == 4 else (1, *shape)
    return GpuArray(int(interface["data"][0]), full, dtype, _device_of(image), _stream_of(image, interface))


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))  # of bytes


def _stream_of(image: Any, interface: dict[str, Any]) -> int:
    """The stream that an array is being written in; 0 where its owner says that it is complete."""
    if type(image).__module__.partition(".")[0] == "torch":  # whose interface does not name it
        import torch

        return int(torch.cuda.current_stream(image.device).cuda_stream) or _LEGACY_DEFAULT_STREAM
    # Before version 3 of the interface there was no word for it: the default stream is the safe reading.
    return int(interface.get("stream", _LEGACY_DEFAULT_STREAM) or 0)


def _device_of(image: Any) -> int:
    device = getattr(image, "device", None)
    index = getattr(device, "index", None)
    number = index if index is not None else getattr(device, "id", device)
    return number if isinstance(number, int) else 0


class _DLDevice(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    pass


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DLManagedTensor))
_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DLManagedTensor._fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]
_NAME = b"dltensor"
_lent: dict[int, tuple[Any, ...]] = {}  # what consumers still hold, by the address of its DLManagedTensor


@_DELETER
def _give_back(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


@_DESTRUCTOR
def _unused(capsule: int) -> None:
    """A capsule that nobody consumed; consumers rename theirs."""
    if ctypes.pythonapi.PyCapsule_IsValid(ctypes.c_void_p(capsule), _NAME):
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
        _lent.pop(int(get(capsule, _NAME)), None)


def dlpack_capsule(array: Any, device_type: int, device: int) -> Any:
    """A DLPack capsule of a contiguous array, which stays alive as long as the consumer holds it.

    Args:
        array: has ``address``, ``shape`` and ``dtype``.
        device_type, device: DLPack's kind and number of the device.
    """
    shape = (ctypes.c_int64 * len(array.shape))(*array.shape)
    managed = _DLManagedTensor()
    kind = _DLDataType(_DLPACK_CODES[array.dtype.kind], array.dtype.itemsize * 8, 1)
    managed.tensor = _DLTensor(array.address, _DLDevice(device_type, device), len(array.shape), kind, shape, None, 0)
    managed.context, managed.deleter = None, _give_back
    _lent[ctypes.addressof(managed)] = (managed, shape, array)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, _DESTRUCTOR]
    return new(ctypes.addressof(managed), _NAME, _unused)
