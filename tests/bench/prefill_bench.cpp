// The prefill's kernels on one thread, in FLOP/s: the matrices of a layer of SmolLM2-135M times 264
// rows of a document, and one q head of a document of 1,024 and 4,096 positions attending to itself.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/kernels/prefill.h"

namespace {

using namespace polykv::core;

std::vector<std::uint16_t> random_bfloat16(std::size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> values(count);
  for (std::uint16_t& value : values) value = float_to_bfloat16(normal(random));
  return values;
}

void set_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

// Arguments: columns, outputs.
void bench_multiply(benchmark::State& state, const PrefillKernels* kernels) {
  constexpr std::size_t kNumRows = 22 * kMatrixRows;
  const auto num_cols = static_cast<std::size_t>(state.range(0)),
             num_outputs = static_cast<std::size_t>(state.range(1));
  const std::vector<std::uint16_t> x = random_bfloat16(kNumRows * num_cols);
  const std::vector<std::uint16_t> weights = random_bfloat16(num_cols * num_outputs);
  std::vector<float> out(kNumRows * num_outputs);
  for (auto _ : state) {
    kernels->multiply(x.data(), num_cols, kNumRows, weights.data(), num_cols, num_outputs / kMatrixOutputs, out.data(),
                      num_outputs);
    benchmark::DoNotOptimize(out.data());
  }
  set_flops(state, 2.0 * static_cast<double>(kNumRows * num_cols * num_outputs));
}

struct Free {
  void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};

// Arguments: positions, head_dim. Only what a position may see is counted.
void bench_attend(benchmark::State& state, const PrefillKernels* kernels) {
  const auto num_tokens = static_cast<std::size_t>(state.range(0)), head_dim = static_cast<std::size_t>(state.range(1));
  const std::vector<std::uint16_t> query = random_bfloat16(num_tokens * head_dim), keys = query, values = query;
  const CausalHead head{num_tokens, head_dim, 0, query.data(), keys.data(), values.data()};
  std::vector<std::uint16_t> out(kCausalRows * head_dim);
  const std::unique_ptr<std::byte[], Free> scratch(
      static_cast<std::byte*>(::operator new[](kernels->causal_scratch_bytes(head_dim), std::align_val_t{64})));
  for (auto _ : state) {
    for (std::size_t row = 0; row < num_tokens; row += kCausalRows)
      kernels->attend(head, row, out.data(), head_dim, scratch.get());
    benchmark::DoNotOptimize(out.data());
  }
  set_flops(state, 2.0 * static_cast<double>(num_tokens * (num_tokens + 1) * head_dim));
}

// The scalar kernels define the right answer and are in no hurry: they are not timed.
const int kRegistered = [] {
  const PrefillKernels* kernels = active_prefill_kernels();
  if (kernels == nullptr) return 0;
  const std::string name = kernels->name;
  auto* multiply = benchmark::RegisterBenchmark(("prefill/multiply/" + name).c_str(), bench_multiply, kernels);
  multiply->ArgNames({"cols", "outputs"})->Unit(benchmark::kMillisecond);
  for (const auto& [num_cols, num_outputs] : {std::pair{576, 960}, {576, 576}, {576, 3072}, {1536, 576}})
    multiply->Args({num_cols, num_outputs});
  auto* attend = benchmark::RegisterBenchmark(("prefill/attend/" + name).c_str(), bench_attend, kernels);
  attend->ArgNames({"positions", "head_dim"})->Unit(benchmark::kMillisecond);
  for (const int num_tokens : {1024, 4096}) attend->Args({num_tokens, 64})->Args({num_tokens, 128});
  return 0;
}();

}  // namespace
