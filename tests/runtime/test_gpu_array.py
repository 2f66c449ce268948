# SPDX-License-Identifier: Apache-2.0
"""How arrays on a GPU are described to other packages; the memory here is the host's."""

import gc

import numpy as np
import pytest

from deeplab_infer.runtime import gpu_array
from deeplab_infer.runtime.gpu_array import GpuArray, as_gpu_pixels, dlpack_capsule, is_gpu_array


class OnHost(GpuArray):
    """Lent as memory of a CPU, so that numpy and torch can look into it."""

    def __dlpack_device__(self):
        return 1, 0


def lent(values):
    return OnHost(values.ctypes.data, values.shape, values.dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float16"])
def test_dlpack_shares_the_memory_and_lets_go(dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    shared = np.from_dlpack(lent(values))
    assert shared.dtype == values.dtype
    assert np.array_equal(shared, values)
    values[1, 2, 3] = 99
    assert shared[1, 2, 3] == 99
    assert len(gpu_array._lent) == 1
    del shared
    gc.collect()
    assert not gpu_array._lent


def test_a_capsule_that_nobody_uses_lets_go():
    values = np.zeros(3, np.uint8)
    capsule = dlpack_capsule(lent(values), 1, 0)
    assert len(gpu_array._lent) == 1
    del capsule
    gc.collect()
    assert not gpu_array._lent


def test_torch_takes_it():
    torch = pytest.importorskip("torch")
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert torch.from_dlpack(lent(values)).tolist() == values.tolist()


def test_the_interface_says_where_and_in_which_stream():
    array = GpuArray(4096, (2, 3), np.dtype(np.uint8), device=1, stream=5)
    assert array.__cuda_array_interface__ == {
        "shape": (2, 3), "typestr": "|u1", "data": (4096, False), "strides": None, "version": 3, "stream": 5,
    }  # fmt: skip
    assert "stream" not in GpuArray(4096, (2, 3), np.dtype(np.uint8)).__cuda_array_interface__
    assert array.__dlpack_device__() == (2, 1)
    assert array.nbytes == 6
    with pytest.raises(ValueError, match="view of a runner's buffer"):
        array.numpy()


def test_owners_get_their_memory_back():
    given = []

    class Owner:
        def free_async(self, address, stream):
            given.append((address, stream))

        def synchronise(self, stream): ...

        def to_host(self, array):
            return np.zeros(array.shape, array.dtype)

    array = GpuArray(4096, (2,), np.dtype(np.uint8), stream=3, owner=Owner())
    assert array.numpy().shape == (2,)
    del array
    gc.collect()
    assert given == [(4096, 3)]


@pytest.mark.parametrize(("stream", "used"), [(None, 0), (1, 1), (77, 77), ("absent", 1)])
def test_streams_of_other_packages(stream, used):
    pixels = GpuArray(4096, (4, 5, 3), np.dtype(np.uint8))
    interface = {**pixels.__cuda_array_interface__, "stream": stream}
    if stream == "absent":
        del interface["stream"]

    class Foreign:
        __cuda_array_interface__ = interface

    assert as_gpu_pixels(Foreign()).stream == used
    assert as_gpu_pixels(Foreign()).shape == (1, 4, 5, 3)


def test_what_is_on_a_gpu():
    torch = pytest.importorskip("torch")
    assert is_gpu_array(GpuArray(1, (1,), np.dtype(np.uint8)))
    assert not is_gpu_array(np.zeros(3))
    assert not is_gpu_array(torch.zeros(3))
    assert not is_gpu_array("image.png")
