// SPDX-License-Identifier: Apache-2.0
#include "common/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace deeplab {

int available_threads() {
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) return std::max(1, CPU_COUNT(&mask));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

int worker_count(int64_t count, int64_t grain, int threads) {
  const int64_t pieces = (count + grain - 1) / grain;
  const int64_t wanted = threads > 0 ? threads : available_threads();
  return static_cast<int>(std::max<int64_t>(1, std::min(pieces, wanted)));
}

void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int worker, int64_t begin, int64_t end)>& body) {
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&](int worker) {
    try {
      for (int64_t begin; (begin = next.fetch_add(grain)) < count;) body(worker, begin, std::min(begin + grain, count));
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  std::vector<std::thread> helpers;
  const int workers = worker_count(count, grain, threads);
  helpers.reserve(workers - 1);
  for (int worker = 1; worker < workers; ++worker) {
    try {
      helpers.emplace_back(work, worker);
    } catch (const std::system_error&) {
      break;  // the process is at its thread limit: the workers that started share the pieces
    }
  }
  work(0);
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace deeplab
