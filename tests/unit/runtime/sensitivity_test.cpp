// The sensitivities of heads against their definition in double arithmetic, and the same bits from every kernel table.
#include "cli/runtime/sensitivity.h"

#include <bit>
#include <cmath>
#include <iostream>
#include <random>

#include "cli/runtime/step_runner.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "tests/support/quantized_pool.h"
#include "tests/support/step_logits.h"

namespace polykv::runtime {
namespace {

using tests::Collected;
using tests::QuantizedPool;

constexpr std::uint32_t kTokens = 700;  // a partial of 512 positions and a short one; 175 rows in three steps

struct Scene {
  ModelFile model;
  Collected kv;
  format::KvShape shape;
  QuantizedPool pool;
  std::vector<std::uint32_t> tokens;
};

Scene make_scene(const std::string& name) {
  auto model = ModelFile::open(tests::model_path(name));
  REQUIRE(model.has_value());
  const ModelConfig& config = model->config();
  const format::KvShape shape{config.num_layers, config.num_kv_heads, config.head_dim, kTokens};
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  Collected kv;
  const std::size_t size = std::size_t{config.num_kv_heads} * kTokens * config.head_dim;
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer)
    for (auto* list : {&kv.keys.emplace_back(), &kv.values.emplace_back()})
      for (std::size_t i = 0; i < size; ++i)
        list->push_back(core::float_to_float16((i % 3 == 0 ? 0.5f : 0.0f) + normal(random)));
  std::vector<std::uint32_t> tokens;
  for (std::uint32_t i = 0; i < kTokens; ++i)
    tokens.push_back(static_cast<std::uint32_t>(random() % config.vocab_size));
  auto pool = QuantizedPool::make(kv, shape, tests::same_codec(shape, {format::kCodecF16, format::kCodecF16}));
  REQUIRE(pool.has_value());
  return {std::move(*model), std::move(kv), shape, std::move(*pool), std::move(tokens)};
}

// By the definition: softmax over the positions before the rows and the rows before each, with float64.
std::vector<Sensitivity> by_definition(const Scene& scene, core::Workers& workers) {
  const ModelConfig& config = scene.model.config();
  const std::uint32_t first = first_sensitivity_row(kTokens);
  const std::size_t dim = config.head_dim, group = config.q_per_kv();
  std::vector<Sensitivity> sums(std::size_t{config.num_layers} * config.num_kv_heads);
  const core::KvPool view = scene.pool.view();
  StepRunner runner(scene.model, {&view}, workers);
  core::Tail tail = runner.make_tail(kTokens);
  const auto at = [&](const std::vector<std::uint16_t>& values, std::size_t head, std::size_t position, std::size_t d) {
    return static_cast<double>(core::float16_to_float(values[(head * kTokens + position) * dim + d]));
  };
  runner.observe([&](const StepLayer& step) {
    const auto& keys = scene.kv.keys[step.layer];
    const auto& values = scene.kv.values[step.layer];
    const core::WeightMatrix& output = scene.model.weights().layers[step.layer].attention_output;
    for (std::size_t row = 0; row < step.num_rows; ++row) {
      double stream = 0.0;
      for (std::size_t i = 0; i < config.hidden_size; ++i)
        stream += std::pow(static_cast<double>(step.hidden[row * config.hidden_size + i]), 2.0);
      for (std::uint32_t head = 0; head < config.num_q_heads; ++head) {
        const std::size_t kv_head = head / group;
        const float* query = &step.query[(row * config.num_q_heads + head) * dim];
        const float* mixed = &step.mixed[(row * config.num_q_heads + head) * dim];
        std::vector<double> mean(dim, 0.0), scores;
        for (std::size_t i = format::kNumSinks; i < kTokens; ++i)
          for (std::size_t d = 0; d < dim; ++d) mean[d] += at(keys, kv_head, i, d) / (kTokens - format::kNumSinks);
        for (std::size_t i = 0; i < first; ++i) {
          double score = 0.0;
          for (std::size_t d = 0; d < dim; ++d) score += static_cast<double>(query[d]) * at(keys, kv_head, i, d);
          scores.push_back(score / std::sqrt(static_cast<double>(dim)));
        }
        // The tail's keys, from its float16 tiles.
        for (std::size_t i = 0; i < tail.num_tokens(0) + row + 1; ++i) {
          const std::uint16_t* block =
              tail.key_block(step.layer, static_cast<std::uint32_t>(kv_head), static_cast<std::uint32_t>(i / 64));
          double score = 0.0;
          for (std::size_t d = 0; d < dim; ++d)
            score += static_cast<double>(query[d]) *
                     static_cast<double>(core::float16_to_float(block[(i % 64 / 16 * dim + d) * 16 + i % 16]));
          scores.push_back(score / std::sqrt(static_cast<double>(dim)));
        }
        const double max = *std::max_element(scores.begin(), scores.end());
        double total = 0.0, query_squares = 0.0, weight_squares = 0.0;
        for (const double score : scores) total += std::exp(score - max);
        for (std::size_t d = 0; d < dim; ++d) query_squares += std::pow(static_cast<double>(query[d]), 2.0);
        std::vector<float> weights(output.num_cols);
        for (std::size_t r = 0; r < output.num_rows; ++r) {
          core::dequantize_row(output, r, weights);
          for (std::size_t d = 0; d < dim; ++d)
            weight_squares += std::pow(static_cast<double>(weights[head * dim + d]), 2.0);
        }
        const double D = static_cast<double>(dim), share = weight_squares / D / stream;
        Sensitivity& sum = sums[step.layer * std::size_t{config.num_kv_heads} + kv_head];
        for (std::size_t i = format::kNumSinks; i < first; ++i) {
          const double p = std::exp(scores[i] - max) / total;
          double key = 0.0, value = 0.0, spread = 0.0;
          for (std::size_t d = 0; d < dim; ++d) {
            key += std::pow(at(keys, kv_head, i, d) - mean[d], 2.0);
            value += std::pow(at(values, kv_head, i, d), 2.0);
            spread += std::pow(at(values, kv_head, i, d) - static_cast<double>(mixed[d]), 2.0);
          }
          sum.key += share * query_squares / (D * D) * p * p * spread * key;
          sum.value += share * p * p * value;
        }
      }
    }
  });
  const core::PositionRange visible{0, first};
  for (std::size_t row = first; row < kTokens; row += kMaxStepRows) {
    const auto rows = std::span(scene.tokens).subspan(row, std::min<std::size_t>(kMaxStepRows, kTokens - row));
    const AgentStep step{&tail, rows, {&visible, 1}, 0, nullptr};
    REQUIRE(runner.step({&step, 1}));
  }
  for (Sensitivity& sum : sums) {
    sum.key /= kTokens - first;
    sum.value /= kTokens - first;
  }
  return sums;
}

std::vector<Sensitivity> measured(const Scene& scene, std::size_t num_threads) {
  core::Workers workers(num_threads);
  const core::KvPool view = scene.pool.view();
  auto result = measure_sensitivity(scene.model, view, scene.tokens, kTokens, workers, {});
  REQUIRE(result.has_value());
  return result->heads;
}

TEST_CASE("sensitivities are what their definition says") {
  core::Workers workers(2);
  for (const char* name : {"llama-gqa-q8_0", "llama-mqa-bias-f16", "qwen2-mha-odd-mixed"}) {
    const Scene scene = make_scene(name);
    const auto expected = by_definition(scene, workers);
    const auto found = measured(scene, 2);
    REQUIRE(found.size() == expected.size());
    INFO(name);
    for (std::size_t i = 0; i < found.size(); ++i) {
      // Floats summed over 700 positions, in sixteen lanes: a few times 2^-24, and .0001 is far from a wrong factor.
      CHECK(found[i].key == Approx(expected[i].key).epsilon(1e-4));
      CHECK(found[i].value == Approx(expected[i].value).epsilon(1e-4));
      CHECK(found[i].key > 0.0);
    }
  }
}

TEST_CASE("sensitivities have the same bits on every kernel table and number of threads") {
  const Scene scene = make_scene("llama-gqa-q8_0");
  const auto expected = measured(scene, 1);
  for (const core::KernelTable* table : core::supported_kernels()) {
    REQUIRE(core::select_kernels(table->name));
    for (const std::size_t num_threads : {1u, 3u}) {
      const auto found = measured(scene, num_threads);
      INFO(table->name << ", threads " << num_threads);
      for (std::size_t i = 0; i < found.size(); ++i) {
        CHECK(std::bit_cast<std::uint64_t>(found[i].key) == std::bit_cast<std::uint64_t>(expected[i].key));
        CHECK(std::bit_cast<std::uint64_t>(found[i].value) == std::bit_cast<std::uint64_t>(expected[i].value));
      }
    }
    std::cout << "kernels " << table->name << ": sensitivities to the same bits" << std::endl;
  }
  REQUIRE(core::select_kernels(core::supported_kernels().front()->name));
}

TEST_CASE("measuring sensitivities stops when asked to") {
  const Scene scene = make_scene("llama-gqa-q8_0");
  core::Workers workers(1);
  const core::KvPool view = scene.pool.view();
  const auto result =
      measure_sensitivity(scene.model, view, scene.tokens, kTokens, workers, [](double) { return false; });
  REQUIRE(!result.has_value());
  CHECK(result.error().code == format::ErrorCode::kInterrupted);
}

}  // namespace
}  // namespace polykv::runtime
