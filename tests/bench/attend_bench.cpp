// Time of attention over one step of a model: every layer's rows against a pool, in ms and GB/s of pages, for every
// kernel table and codec, beside the same rows on float16 pages.
//
//   attend_bench [threads]
//
// Shapes: SmolLM2-135M (30 layers of 3 kv_heads, head_dim 64, 3 q heads each) and half of an 8B model (16 layers of 8
// kv_heads, head_dim 128, 4 q heads each); 4,096 positions; 1 and 15 agents, a row each, no tails. Codes are random:
// the kernels do the same work on any.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cli/runtime/attention_step.h"
#include "cli/runtime/random_pool.h"
#include "core/codec.h"
#include "core/kernels/kernels.h"

namespace {

using namespace polykv;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kNumTokens = 4096;
constexpr int kRepeats = 9;

struct Shape {
  const char* name;
  std::uint32_t num_layers, num_kv_heads, q_per_kv, head_dim;
};

// Of all threads of this process: what is left of a measurement on a busy machine.
double cpu_milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

struct Times {
  double wall_ms, cpu_ms;
};

// The shortest of kRepeats steps.
Times time_step(runtime::AttentionStep& step) {
  Times best{1e9, 1e9};
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = Clock::now();
    const double cpu_start = cpu_milliseconds();
    if (!step.run()) std::exit(1);
    best.wall_ms = std::min(best.wall_ms, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    best.cpu_ms = std::min(best.cpu_ms, cpu_milliseconds() - cpu_start);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t num_threads = argc > 1 ? static_cast<std::size_t>(std::atoi(argv[1])) : core::default_num_threads();
  core::Workers workers(num_threads);
  std::printf("model\tkernels\tthreads\tagents\tcodec\tms\tcpu_ms\tGB/s\tx f16\tx f16 cpu\n");
  for (const Shape& model : {Shape{"135M", 30, 3, 3, 64}, Shape{"8B/2", 16, 8, 4, 128}}) {
    for (const char* codec : {"f16", "k8v3", "k6v4", "k5v4", "k4v3", "k3v3"}) {
      static std::vector<std::pair<std::string, Times>> baselines;
      const runtime::RandomPool random({model.num_layers, model.num_kv_heads, model.head_dim, kNumTokens},
                                       *core::parse_codec_name(codec));
      for (const core::KernelTable* table : core::supported_kernels()) {
        if (std::string(table->name) == "scalar" || !core::select_kernels(table->name)) continue;
        for (const std::size_t num_agents : {1u, 15u}) {
          runtime::AttentionStep step(random.pool(), model.num_layers, model.num_kv_heads * model.q_per_kv, num_agents,
                                      kNumTokens, workers);
          const Times times = time_step(step);
          const std::string what = std::string(model.name) + table->name + std::to_string(num_agents);
          if (std::string(codec) == "f16") baselines.emplace_back(what, times);
          const auto baseline =
              std::find_if(baselines.begin(), baselines.end(), [&](const auto& b) { return b.first == what; });
          std::printf("%s\t%s\t%zu\t%zu\t%s\t%.3f\t%.3f\t%.1f\t%.2f\t%.2f\n", model.name, table->name, num_threads,
                      num_agents, codec, times.wall_ms, times.cpu_ms,
                      static_cast<double>(random.page_bytes()) / times.wall_ms / 1e6,
                      baseline->second.wall_ms / times.wall_ms, baseline->second.cpu_ms / times.cpu_ms);
          std::fflush(stdout);
        }
      }
    }
  }
}
