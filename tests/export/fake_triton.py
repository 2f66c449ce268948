# SPDX-License-Identifier: Apache-2.0
"""A stand-in for tritonserver: one model of a repository, with the checks of the server and of its backends.

The config is read with Triton's published schema (tritonclient carries it). What is refused follows the server's and
the backends' documentation and sources: batch dimensions, data types and shapes of the model file itself.
"""

import argparse
import http.server
import json
import signal
import sys
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

DTYPES = {"TYPE_UINT8": "uint8", "TYPE_INT32": "int32"}


def read_config(path):
    """Strict: a field that the schema does not have is an error."""
    return text_format.Parse(Path(path).read_text("utf-8"), model_config_pb2.ModelConfig())


def type_name(value):
    return model_config_pb2.DataType.Name(value)


def check_config(config):
    """What the server refuses before it looks at the model file."""
    assert config.backend in ("onnxruntime", "openvino", "tensorrt")
    assert config.max_batch_size >= 0
    for tensor in (*config.input, *config.output):
        assert tensor.name
        assert type_name(tensor.data_type) in DTYPES
        assert tensor.dims
        assert all(dim == -1 or dim >= 1 for dim in tensor.dims)
    for group in config.instance_group:
        assert group.count >= 1
        assert config.backend == "tensorrt" or not group.profile
    if config.HasField("dynamic_batching"):
        assert config.max_batch_size > 1
        assert all(1 <= size <= config.max_batch_size for size in config.dynamic_batching.preferred_batch_size)
    for warm_up in config.model_warmup:
        assert 1 <= warm_up.batch_size <= max(config.max_batch_size, 1)
        for one in config.input:
            given = warm_up.inputs[one.name]
            assert given.data_type == one.data_type
            assert given.WhichOneof("input_data_type")
            assert all(dim >= 1 for dim in given.dims)
            assert fits(given.dims, one.dims)
    for spec in config.optimization.cuda.graph_spec:
        low, high = (1, config.max_batch_size) if config.max_batch_size else (0, 0)
        assert low <= spec.batch_size <= high


def fits(shape, dims):
    return len(shape) == len(dims) and all(dim in (-1, size) for size, dim in zip(shape, dims, strict=True))


class OnnxModel:
    """Names, types and shapes (-1 where open) of a file, and how it is run."""

    def __init__(self, path):
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = {one.name: self._describe(one) for one in self._session.get_inputs()}
        self.outputs = {one.name: self._describe(one) for one in self._session.get_outputs()}

    @staticmethod
    def _describe(value):
        dtype = value.type.removeprefix("tensor(").removesuffix(")")
        return dtype, [dim if isinstance(dim, int) else -1 for dim in value.shape]

    def __call__(self, image):
        return self._session.run(["labels"], {"image": image})[0]


class OpenVinoModel:
    def __init__(self, path):
        from deeplab_infer.runtime.openvino_core import shared_core

        model = shared_core().read_model(path)
        self.inputs = dict(map(self._describe, model.inputs))
        self.outputs = dict(map(self._describe, model.outputs))
        # What the file says, which is what is compared; the real backend leaves it to the CPU.
        self._compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    @staticmethod
    def _describe(port):
        shape = [dim.get_length() if dim.is_static else -1 for dim in port.partial_shape]
        return port.any_name, (np.dtype(port.element_type.to_dtype()).name, shape)

    def __call__(self, image):
        return self._compiled({"image": image})["labels"]


LOADERS = {"onnxruntime": ("model.onnx", OnnxModel), "openvino": ("model.xml", OpenVinoModel)}


def check_tensors(config, inputs, outputs):
    """What a backend refuses when it compares the config with the model's inputs and outputs."""
    batch = [-1] if config.max_batch_size > 0 else []
    for tensors, described, exact in ((config.input, inputs, False), (config.output, outputs, True)):
        assert {tensor.name for tensor in tensors} == set(described)
        for tensor in tensors:
            dtype, shape = described[tensor.name]
            assert DTYPES[type_name(tensor.data_type)] == dtype, tensor.name
            wanted = [*batch, *tensor.dims]
            if batch:
                assert shape[0] == -1, f"{tensor.name}: the model does not take batches"
            # An input may be narrower than the model's, an output may not; and ONNX Runtime's backend takes a model
            # with an open batch and max_batch_size 0 for one that was left to be completed.
            assert shape == wanted if exact else fits(wanted, shape), (tensor.name, shape, wanted)
            if config.backend == "onnxruntime" and not batch:
                assert shape[0] != -1


class Served:
    """The newest version of a model."""

    def __init__(self, repository, name):
        folder = Path(repository) / name
        self.config = read_config(folder / "config.pbtxt")
        assert self.config.name == name
        check_config(self.config)
        for output in self.config.output:
            self.labels = (folder / output.label_filename).read_text("utf-8").splitlines()
        versions = [int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
        self.version = max(versions)
        file, load = LOADERS[self.config.backend]
        self._model = load(folder / str(self.version) / file)
        check_tensors(self.config, self._model.inputs, self._model.outputs)
        self.batches = []
        for warm_up in self.config.model_warmup:
            image = warm_up.inputs["image"]
            shape = list(image.dims)
            if self.config.max_batch_size:
                shape.insert(0, warm_up.batch_size)
            self.infer(np.zeros(shape, np.uint8))

    def infer(self, image):
        dims, limit = list(self.config.input[0].dims), self.config.max_batch_size
        shape = image.shape[1:] if limit else image.shape
        if not fits(shape, dims) or (limit and not 1 <= image.shape[0] <= limit):
            raise ValueError(f"unexpected shape for input 'image' for model '{self.config.name}': {list(image.shape)}")
        self.batches.append(image.shape)
        return self._model(image)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """As much of the gRPC protocol as the guide's client uses."""

    def __init__(self, served):
        self._served = served

    def ModelConfig(self, request, context):
        return service_pb2.ModelConfigResponse(config=self._served.config)

    def ModelInfer(self, request, context):
        (given,) = request.inputs
        assert (given.name, given.datatype) == ("image", "UINT8")
        image = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(given.shape)
        labels = np.ascontiguousarray(self._served.infer(image))
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        answer.outputs.add(name="labels", datatype=labels.dtype.name.upper(), shape=labels.shape)
        answer.raw_output_contents.append(labels.tobytes())
        return answer


def serve_grpc(served):
    """A started server and its address."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(served), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def make_handler(served):
    class Handler(http.server.BaseHTTPRequestHandler):
        """As much of the HTTP protocol as --check-server uses."""

        def do_GET(self):
            ready = self.path == f"/v2/models/{served.config.name}/ready"
            self.answer(200 if ready else 404, b"", b"")

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            length = int(self.headers["Inference-Header-Content-Length"])
            asked = json.loads(body[:length])
            (given,), (wanted,) = asked["inputs"], asked["outputs"]
            assert (given["name"], given["datatype"]) == ("image", "UINT8")
            assert given["parameters"]["binary_data_size"] == len(body) - length
            assert wanted == {"name": "labels", "parameters": {"binary_data": True}}
            try:
                labels = served.infer(np.frombuffer(body, np.uint8, offset=length).reshape(given["shape"]))
            except ValueError as error:
                self.answer(400, json.dumps({"error": str(error)}).encode(), b"")
                return
            output = {"name": "labels", "shape": labels.shape, "datatype": labels.dtype.name.upper()}
            self.answer(200, json.dumps({"outputs": [output]}).encode(), labels.tobytes())

        def answer(self, status, head, data):
            self.send_response(status)
            self.send_header("Inference-Header-Content-Length", str(len(head)))
            self.send_header("Content-Length", str(len(head) + len(data)))
            self.end_headers()
            self.wfile.write(head + data)

        def log_message(self, *arguments):
            pass

    return Handler


def main():
    """The options that the real server has, and no others."""
    parser = argparse.ArgumentParser("tritonserver", allow_abbrev=False)
    parser.add_argument("--model-repository", required=True)
    parser.add_argument("--model-control-mode", choices=("none", "poll", "explicit"))
    parser.add_argument("--load-model", required=True)
    parser.add_argument("--http-address")
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--allow-grpc", choices=("true", "false"))
    parser.add_argument("--allow-metrics", choices=("true", "false"))
    given = parser.parse_args()
    served = Served(given.model_repository, given.load_model)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    http.server.HTTPServer((given.http_address, given.http_port), make_handler(served)).serve_forever()


if __name__ == "__main__":
    main()
