// Time of quantizing a document's keys and values, in ms, for every kernel table and some codecs.
//
//   quantize_bench [threads]
//
// Shape: SmolLM2-135M (90 heads, head_dim 64), 3,952 positions. One head's numbers are quantized 90 times over.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "core/codec.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/workers.h"
#include "format/page_layout.h"

namespace {

using namespace polykv;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kNumHeads = 90, kNumPositions = 3952, kHeadDim = 64;
constexpr int kRepeats = 3;

// Of all threads of this process: what is left of a measurement on a busy machine.
double cpu_milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  core::Workers workers(argc > 1 ? static_cast<std::size_t>(std::atoi(argv[1])) : core::default_num_threads());
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> keys(kNumPositions * kHeadDim), values(keys.size()), mean(kHeadDim);
  for (std::uint16_t& value : keys) value = core::float_to_float16(normal(random));
  for (std::uint16_t& value : values) value = core::float_to_float16(normal(random));
  core::mean_of_keys(keys, kHeadDim, mean);
  std::printf("kernels\tthreads\tcodec\tms\tcpu_ms\n");
  for (const core::KernelTable* table : core::supported_kernels()) {
    if (!core::select_kernels(table->name)) continue;
    for (const char* name : {"k6v6", "k5v4", "k4v4", "k3v3", "k2v2", "k1v1"}) {
      const core::CodecPair codec = *core::parse_codec_name(name);
      std::vector<std::vector<std::byte>> pages(
          workers.num_threads(),
          std::vector<std::byte>(format::run_bytes(codec.key, codec.value, kHeadDim, kNumPositions)));
      double wall = 1e9, cpu = 1e9;
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        const auto start = Clock::now();
        const double cpu_start = cpu_milliseconds();
        workers.run(kNumHeads, [&](std::size_t, std::size_t worker) {
          if (!core::quantize_run(codec, keys, values, kHeadDim, {.mean = mean}, pages[worker])) std::exit(1);
        });
        wall = std::min(wall, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
        cpu = std::min(cpu, cpu_milliseconds() - cpu_start);
      }
      std::printf("%s\t%zu\t%s\t%.1f\t%.1f\n", table->name, workers.num_threads(), name, wall, cpu);
      std::fflush(stdout);
    }
  }
}
