// SPDX-License-Identifier: Apache-2.0
#include "ops/upsample.h"

#include "common/check.h"

namespace deeplab {

void upsample(const UpsampleParams& params) {
  check(params.height >= 1 && params.width >= 1, "logits: has an empty image (h = ", params.height,
        ", w = ", params.width, ")");
  check(params.threads >= 0, "threads: got ", params.threads, "; 0 (all available) or a positive count is accepted");
  check_taps("y", params.y, params.height);
  check_taps("x", params.x, params.width);
  if (params.planes > 0) upsample_cpu(params);
}

}  // namespace deeplab
