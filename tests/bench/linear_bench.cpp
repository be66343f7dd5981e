// Linear layers of one step of SmolLM2-135M (30 layers in Q4_1, the output matrix in Q8_0): 97 MB of weights, more than
// any cache that this is likely to run on, against what reading so many bytes takes in the same run.
//
// items_per_second is rows a second (tokens, if there were nothing but linear layers); bytes_per_second counts weight
// bytes, read once a step whatever the number of rows.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cli/runtime/read_speed.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/linear.h"

namespace {

using namespace polykv::core;

constexpr std::size_t kNumLayers = 30, kHidden = 576, kKeyValue = 192, kFfn = 1536, kVocab = 49152;

class Model {
 public:
  struct Layer {
    WeightMatrix query, key, value, output, gate, up, down;
  };

  Model() {
    const std::size_t layer_values = kHidden * (2 * kHidden + 2 * kKeyValue + 3 * kFfn);
    num_bytes_ = kNumLayers * weight_row_bytes(WeightType::kQ4_1, layer_values) +
                 weight_row_bytes(WeightType::kQ8_0, kVocab * kHidden);
    memory_ = std::make_unique<std::uint64_t[]>(num_bytes_ / 8 + 1);
    at_ = reinterpret_cast<std::byte*>(memory_.get());
    for (Layer& layer : layers_) {
      layer = {add(WeightType::kQ4_1, kHidden, kHidden),   add(WeightType::kQ4_1, kKeyValue, kHidden),
               add(WeightType::kQ4_1, kKeyValue, kHidden), add(WeightType::kQ4_1, kHidden, kHidden),
               add(WeightType::kQ4_1, kFfn, kHidden),      add(WeightType::kQ4_1, kFfn, kHidden),
               add(WeightType::kQ4_1, kHidden, kFfn)};
    }
    logits_ = add(WeightType::kQ8_0, kVocab, kHidden);
  }

  std::size_t num_bytes() const { return num_bytes_; }
  std::span<const std::uint64_t> words() const { return {memory_.get(), num_bytes_ / 8}; }
  const std::vector<Layer>& layers() const { return layers_; }
  const WeightMatrix& logits() const { return logits_; }

 private:
  WeightMatrix add(WeightType type, std::size_t num_rows, std::size_t num_cols) {
    const WeightMatrix matrix{at_, type, num_rows, num_cols};
    const std::size_t head = type == WeightType::kQ4_1 ? 4 : 2, block = weight_row_bytes(type, 32);
    const std::uint16_t scale = float_to_float16(0.01f);
    for (std::size_t i = 0; i < num_rows * num_cols / 32; ++i, at_ += block) {
      for (std::size_t j = 0; j < head; j += 2) std::memcpy(at_ + j, &scale, sizeof scale);
      for (std::size_t j = head; j < block; ++j) at_[j] = static_cast<std::byte>(random_() >> 24);
    }
    return matrix;
  }

  std::size_t num_bytes_ = 0;
  std::unique_ptr<std::uint64_t[]> memory_;
  std::byte* at_ = nullptr;
  std::minstd_rand random_{1};
  std::vector<Layer> layers_{kNumLayers};
  WeightMatrix logits_;
};

const Model& model() {
  static const Model instance;
  return instance;
}

void set_rates(benchmark::State& state, std::size_t num_rows) {
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * num_rows));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * model().num_bytes()));
}

// Arguments: rows, threads.
void bench_step(benchmark::State& state, const char* kernels) {
  if (!select_kernels(kernels).has_value()) return state.SkipWithError("kernels are not available");
  const auto num_rows = static_cast<std::size_t>(state.range(0));
  Workers workers(static_cast<std::size_t>(state.range(1)));
  std::vector<float> hidden(num_rows * kHidden), ffn(num_rows * kFfn), logits(num_rows * kVocab);
  for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] = static_cast<float>(i % 31) - 15.0f;
  for (std::size_t i = 0; i < ffn.size(); ++i) ffn[i] = static_cast<float>(i % 29) - 14.0f;
  std::vector<float> outs[3];
  for (std::vector<float>& out : outs) out.resize(num_rows * kFfn);
  Activations x;
  const auto run = [&](const std::vector<float>& input, std::size_t num_cols,
                       std::initializer_list<const WeightMatrix*> matrices) {
    x.assign(input, num_rows, num_cols, workers);
    std::vector<LinearLayer> layers;
    for (const WeightMatrix* matrix : matrices)
      layers.push_back({*matrix, {}, {outs[layers.size()].data(), num_rows * matrix->num_rows}});
    linear(x, layers, workers);
  };
  for (auto _ : state) {
    for (const Model::Layer& layer : model().layers()) {
      run(hidden, kHidden, {&layer.query, &layer.key, &layer.value});
      run(hidden, kHidden, {&layer.output});
      run(hidden, kHidden, {&layer.gate, &layer.up});
      run(ffn, kFfn, {&layer.down});
    }
    x.assign(hidden, num_rows, kHidden, workers);
    const LinearLayer output{model().logits(), {}, logits};
    linear(x, {&output, 1}, workers);
    benchmark::DoNotOptimize(logits.data());
  }
  set_rates(state, num_rows);
}

// Sums the same bytes with as many threads: what memory can deliver.
void bench_read(benchmark::State& state) {
  Workers workers(static_cast<std::size_t>(state.range(0)));
  polykv::runtime::MemoryReader reader(workers);
  for (auto _ : state) benchmark::DoNotOptimize(reader.sum(model().words()));
  set_rates(state, 0);
}

void bench_assign(benchmark::State& state) {
  const auto num_rows = static_cast<std::size_t>(state.range(0));
  std::vector<float> values(num_rows * kFfn);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 29) - 14.0f;
  Workers workers(1);
  Activations x;
  for (auto _ : state) x.assign(values, num_rows, kFfn, workers);
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * num_rows));
}

const int kRegistered = [] {
  benchmark::RegisterBenchmark("linear/read", bench_read)->Arg(1)->Arg(2)->UseRealTime();
  benchmark::RegisterBenchmark("linear/assign", bench_assign)->Arg(1)->Arg(64);
  for (const KernelTable* table : supported_kernels()) {
    const std::string name = std::string("linear/step/") + table->name;
    auto* step = benchmark::RegisterBenchmark(name.c_str(), bench_step, table->name);
    step->ArgNames({"rows", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
    for (const int num_rows : {1, 4, 15, 64}) step->Args({num_rows, 1})->Args({num_rows, 2});
  }
  return 0;
}();

}  // namespace
