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
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/attend.h"
#include "core/codec.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "format/page_layout.h"

namespace {

using namespace polykv;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kNumTokens = 4096;
constexpr int kRepeats = 9;

struct Shape {
  const char* name;
  std::uint32_t num_layers, num_kv_heads, q_per_kv, head_dim;
};

// Random pages whose scales, and float16 values, are around 1.
struct Pool {
  format::KvShape shape;
  format::Layout layout;
  std::vector<std::byte> pages, sinks, means;

  Pool(const Shape& model, core::CodecPair codec)
      : shape{model.num_layers, model.num_kv_heads, model.head_dim, kNumTokens} {
    std::mt19937 random(1);
    const std::size_t num_heads = std::size_t{model.num_layers} * model.num_kv_heads;
    layout.position_sets = {{{{format::kNumSinks, kNumTokens}}}};
    const std::size_t run_bytes =
        format::run_bytes(codec.key, codec.value, model.head_dim, kNumTokens - format::kNumSinks);
    for (std::size_t head = 0; head < num_heads; ++head)
      layout.runs.push_back({{0, codec.key, codec.value, head * run_bytes}});
    sinks = halves(random, num_heads * 2 * format::kNumSinks * model.head_dim);
    means = halves(random, num_heads * model.head_dim);
    const auto float16_pages = [&](std::size_t num_bytes) { return halves(random, num_bytes / 2); };
    if (codec.key == format::kCodecF16) {
      pages = float16_pages(num_heads * run_bytes);
      return;
    }
    pages.resize(num_heads * run_bytes);
    for (std::byte& byte : pages) byte = static_cast<std::byte>(random());
    const std::vector<std::byte> scales = halves(random, 4096);
    const format::PageLayout page = format::page_layout(codec.key, codec.value, model.head_dim, format::kPageTokens);
    for (std::size_t at = 0; at + page.bytes <= pages.size(); at += page.bytes)
      std::memcpy(pages.data() + at, scales.data(), page.keys_offset);
  }

  static std::vector<std::byte> halves(std::mt19937& random, std::size_t count) {
    std::vector<std::byte> out(count * 2);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint16_t half = core::float_to_float16(0.5f + static_cast<float>(random() % 1024) / 1024.0f);
      std::memcpy(out.data() + 2 * i, &half, 2);
    }
    return out;
  }
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
Times time_step(const Shape& model, const core::KvPool& pool, std::size_t num_agents, core::Workers& workers) {
  const std::uint32_t num_q_heads = model.num_kv_heads * model.q_per_kv;
  const std::size_t width = std::size_t{num_q_heads} * model.head_dim;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> queries(num_agents * width), out(queries.size());
  for (float& value : queries) value = normal(random);
  const std::vector<format::PositionRange> visible{{0, kNumTokens}};
  std::vector<core::AttendRow> rows;
  for (std::size_t i = 0; i < num_agents; ++i)
    rows.push_back({queries.data() + i * width, out.data() + i * width, visible, nullptr, 0});
  const core::KvPool* chain[] = {&pool};
  core::AttendScratch scratch;
  Times best{1e9, 1e9};
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = Clock::now();
    const double cpu_start = cpu_milliseconds();
    for (std::uint32_t layer = 0; layer < model.num_layers; ++layer)
      if (!core::attend(chain, layer, num_q_heads, model.num_kv_heads, model.head_dim, rows, workers, scratch))
        std::exit(1);
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
      const Pool made(model, *core::parse_codec_name(codec));
      const core::KvPool pool({made.shape, 0, format::kNumSinks, &made.layout, made.pages, made.sinks, made.means});
      for (const core::KernelTable* table : core::supported_kernels()) {
        if (std::string(table->name) == "scalar" || !core::select_kernels(table->name)) continue;
        for (const std::size_t num_agents : {1u, 15u}) {
          const Times times = time_step(model, pool, num_agents, workers);
          const std::string what = std::string(model.name) + table->name + std::to_string(num_agents);
          if (std::string(codec) == "f16") baselines.emplace_back(what, times);
          const auto baseline =
              std::find_if(baselines.begin(), baselines.end(), [&](const auto& b) { return b.first == what; });
          std::printf("%s\t%s\t%zu\t%zu\t%s\t%.3f\t%.3f\t%.1f\t%.2f\t%.2f\n", model.name, table->name, num_threads,
                      num_agents, codec, times.wall_ms, times.cpu_ms,
                      static_cast<double>(made.pages.size()) / times.wall_ms / 1e6,
                      baseline->second.wall_ms / times.wall_ms, baseline->second.cpu_ms / times.cpu_ms);
          std::fflush(stdout);
        }
      }
    }
  }
}
