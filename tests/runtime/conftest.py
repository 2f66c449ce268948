# SPDX-License-Identifier: Apache-2.0
"""One small network and its exported files, made once."""

import pytest
from deeplab_export import export_onnx

from ..networks import make_network


@pytest.fixture(scope="session")
def network():
    return make_network()


@pytest.fixture(scope="session")
def model_file(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(network, path)
    return path


@pytest.fixture(scope="session")
def labels_file(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("exported") / "labels.onnx"
    export_onnx(network, path, output="labels", batch=(1, 1, 4), height=48, width=64)
    return path


@pytest.fixture(scope="session")
def fixed_file(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("exported") / "fixed.onnx"
    export_onnx(network, path, batch=2, height=48, width=64)
    return path
