// SPDX-License-Identifier: Apache-2.0
#include "ops/upsample_argmax.h"

#include <limits>

#include "common/check.h"

namespace deeplab {

void upsample_argmax(const UpsampleArgmaxParams& params) {
  check(params.channels >= 1, "logits: has no classes (C = 0)");
  check(params.height >= 1 && params.width >= 1, "logits: has an empty image (h = ", params.height,
        ", w = ", params.width, ")");
  check(params.channels <= std::numeric_limits<int32_t>::max(), "logits: too many classes (", params.channels, ")");
  check(params.threads >= 0, "threads: got ", params.threads, "; 0 (all available) or a positive count is accepted");
  check_taps("y", params.y, params.height);
  check_taps("x", params.x, params.width);
  if (params.batch > 0) upsample_argmax_cpu(params);
}

}  // namespace deeplab
