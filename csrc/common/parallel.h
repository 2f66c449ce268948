// SPDX-License-Identifier: Apache-2.0
// Threads of the CPU kernels: made for one call and joined before it returns, so nothing survives a fork().
#pragma once

#include <cstdint>
#include <functional>

namespace deeplab {

// Processors this process may run on (its affinity mask, which is smaller than the machine in a container).
int available_threads();

// Calls body(worker, begin, end) until [0, count) is covered in pieces of at most `grain`, taken in turn by at most
// `threads` workers (0: available_threads()), worker in [0, worker_count(...)). The first exception is rethrown here.
void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int worker, int64_t begin, int64_t end)>& body);

// Workers that parallel_for will use for these arguments: at least 1, never more than there are pieces.
int worker_count(int64_t count, int64_t grain, int threads);

}  // namespace deeplab
