// How long something takes, on a machine that does other things too: the shortest of several runs.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>

#include "format/status.h"

namespace polykv::runtime {

// Milliseconds of the shortest run of `work`, which returns a Status. Runs it until `limit_ms` are over or it ran
// `max_runs` times, and once in any case; the first run warms caches and makes room, so it counts only if it is alone
// or the shortest. The first error ends it.
template <typename Work>
format::Result<double> best_ms(double limit_ms, int max_runs, const Work& work) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed_ms = [](Clock::time_point since) {
    return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
  };
  const Clock::time_point begin = Clock::now();
  double best = std::numeric_limits<double>::infinity();
  int run = 0;
  do {
    const Clock::time_point start = Clock::now();
    POLYKV_CHECK_STATUS(work());
    best = std::min(best, elapsed_ms(start));
  } while (++run < max_runs && elapsed_ms(begin) < limit_ms);
  return best;
}

}  // namespace polykv::runtime
