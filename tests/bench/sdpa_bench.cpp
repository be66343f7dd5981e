// Attention over one step of a model, beside LibTorch's scaled_dot_product_attention on keys and values of the same
// shape in float, bfloat16 and float16.
//
//   sdpa_bench [threads]
//
// LibTorch gets the rows of a group (q heads x agents) as the rows of one query, without a mask: the keys and values of
// a kv_head are then read once, which is the best that it can do. Its weights see no other work between two layers.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cli/runtime/attention_step.h"
#include "cli/runtime/best_time.h"
#include "cli/runtime/random_pool.h"
#include "core/codec.h"
#include "core/kernels/kernels.h"

namespace {

using namespace polykv;

constexpr std::uint32_t kNumTokens = 4096;
constexpr std::uint32_t kNumLayers = 30, kNumKvHeads = 3, kQPerKv = 3, kHeadDim = 64;  // SmolLM2-135M
constexpr double kLimitMs = 500;
constexpr int kMaxRuns = 1000;

double torch_ms(at::ScalarType type, std::int64_t num_agents) {
  const auto options = at::TensorOptions().dtype(type);
  std::vector<at::Tensor> keys, values;
  for (std::uint32_t layer = 0; layer < kNumLayers; ++layer) {
    keys.push_back(at::randn({1, kNumKvHeads, kNumTokens, kHeadDim}, options));
    values.push_back(at::randn({1, kNumKvHeads, kNumTokens, kHeadDim}, options));
  }
  const at::Tensor query = at::randn({1, kNumKvHeads, kQPerKv * num_agents, kHeadDim}, options);
  return *runtime::best_ms(kLimitMs, kMaxRuns, [&]() -> format::Status {
    for (std::uint32_t layer = 0; layer < kNumLayers; ++layer)
      at::scaled_dot_product_attention(query, keys[layer], values[layer]);
    return {};
  });
}

double our_ms(const core::KvPool& pool, std::size_t num_agents, core::Workers& workers) {
  runtime::AttentionStep step(pool, kNumLayers, kNumKvHeads * kQPerKv, num_agents, kNumTokens, workers);
  return runtime::best_ms(kLimitMs, kMaxRuns, [&] { return step.run(); }).value();
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t num_threads = argc > 1 ? static_cast<std::size_t>(std::atoi(argv[1])) : core::default_num_threads();
  at::set_num_threads(static_cast<int>(num_threads));
  core::Workers workers(num_threads);
  std::printf("kernels %s, %zu threads, %u positions; ratio: LibTorch's time / ours\n", core::active_kernels().name,
              num_threads, kNumTokens);
  std::printf("codec\tagents\tms\ttype\tLibTorch ms\tratio\n");
  for (const char* codec : {"f16", "k8v3", "k5v4"}) {
    const runtime::RandomPool random({kNumLayers, kNumKvHeads, kHeadDim, kNumTokens}, *core::parse_codec_name(codec));
    for (const std::size_t num_agents : {1u, 15u}) {
      const double ms = our_ms(random.pool(), num_agents, workers);
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
        const double reference = torch_ms(type, static_cast<std::int64_t>(num_agents));
        std::printf("%s\t%zu\t%.3f\t%s\t%.3f\t%.2f\n", codec, num_agents, ms, at::toString(type), reference,
                    reference / ms);
        std::fflush(stdout);
      }
    }
  }
}
