// SPDX-License-Identifier: Apache-2.0
#include "ops/preprocess.h"

#include <cmath>

#include "common/check.h"
#include "common/cuda_support.h"

namespace deeplab {

void preprocess(const TensorView& images, const TensorView& output, const std::vector<float>& mean,
                const std::vector<float>& std, bool reverse_channels, const Execution& execution) {
  check_same_device({{"images", &images}, {"out", &output}});
  check_dtype("images", images, {DType::uint8});
  check(images.dims == 4 && images.shape[3] == 3, "images: got shape ", shape_text(images), ", needs [N, H, W, 3]");
  check_contiguous("images", images);
  check_dtype("out", output, {DType::float32, DType::float16, DType::bfloat16});
  PreprocessProblem problem{};
  problem.layout = check_layout("out", output);
  check(output.shape[0] == images.shape[0] && output.shape[1] == 3, "out: got shape ", shape_text(output),
        ", needs [N, 3, h, w] with the N of images, ", images.shape[0]);
  for (int i : {1, 2}) {
    check(images.shape[i] >= 1 && images.shape[i] < (int64_t{1} << 31), "images: got shape ", shape_text(images),
          "; H and W must be at least 1");
    check(output.shape[i + 1] >= 1 && output.shape[i + 1] < (int64_t{1} << 31), "out: got shape ", shape_text(output),
          "; h and w must be at least 1");
  }
  check(mean.size() == 3, "mean: got ", mean.size(), " values, needs 3");
  check(std.size() == 3, "std: got ", std.size(), " values, needs 3");
  for (int c = 0; c < 3; ++c) {
    check(std::isfinite(mean[c]), "mean: holds ", mean[c]);
    check(std::isfinite(std[c]) && std[c] != 0.0f, "std: holds ", std[c], "; needs finite values other than 0");
    problem.mean[c] = mean[c];
    problem.std[c] = std[c];
  }
  check_output({"out", &output}, {{"images", &images}});
  problem.dtype = output.dtype;
  problem.batch = images.shape[0];
  problem.in_height = images.shape[1];
  problem.in_width = images.shape[2];
  problem.height = output.shape[2];
  problem.width = output.shape[3];
  problem.images = static_cast<const uint8_t*>(images.data);
  problem.output = output.data;
  problem.reverse_channels = reverse_channels;
  if (problem.batch == 0) return;
  if (on_gpu(images, execution)) {
    const DeviceGuard guard(images, execution);
    preprocess_cuda(problem, execution);
  } else {
    preprocess_cpu(problem, execution);
  }
}

}  // namespace deeplab
