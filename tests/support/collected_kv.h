// All layers' keys and values, from a prefill or from the step runner's tail, in the prefill's order.
#pragma once

#include <cmath>

#include "cli/runtime/model_runner.h"
#include "cli/runtime/step_runner.h"
#include "core/float16.h"
#include "tests/support/catch.h"
#include "tests/support/quantized_pool.h"

namespace polykv::tests {

inline Collected collect(runtime::PrefillRunner& runner, const runtime::ModelFile& model,
                         std::span<const std::uint32_t> tokens, const runtime::PrefillOptions& options) {
  Collected collected;
  REQUIRE(runner.prefill(model, tokens, options, [&](const runtime::LayerKv& layer) {
    CHECK(layer.layer == collected.keys.size());
    CHECK(layer.num_tokens == tokens.size());
    collected.keys.emplace_back(layer.keys.begin(), layer.keys.end());
    collected.values.emplace_back(layer.values.begin(), layer.values.end());
    return format::Status();
  }));
  return collected;
}

// One layer's keys (or values) of a tail.
inline std::vector<std::uint16_t> tail_values(const core::Tail& tail, const runtime::ModelConfig& config,
                                              std::uint32_t layer, bool keys) {
  const std::size_t dim = config.head_dim, padded = (dim + 15) / 16 * 16;
  std::vector<std::uint16_t> out;
  for (std::uint32_t head = 0; head < config.num_kv_heads; ++head) {
    for (std::uint32_t t = 0; t < tail.num_tokens(layer); ++t) {
      const std::uint32_t block = t / 64, slot = t % 64;
      for (std::size_t d = 0; d < dim; ++d) {
        out.push_back(keys ? tail.key_block(layer, head, block)[(slot / 16 * dim + d) * 16 + slot % 16]
                           : tail.value_block(layer, head, block)[slot * padded + d]);
      }
    }
  }
  return out;
}

inline Collected collect_steps(const runtime::ModelFile& model, std::span<const std::uint32_t> tokens,
                               core::Workers& workers) {
  const std::size_t q_heads = model.config().num_q_heads, dim = model.config().head_dim;
  Collected collected;
  collected.queries.assign(model.config().num_layers, std::vector<std::uint16_t>(q_heads * tokens.size() * dim));
  runtime::StepRunner steps(model, {}, workers);
  core::Tail tail = steps.make_tail(static_cast<std::uint32_t>(tokens.size()));
  steps.observe([&](const runtime::StepLayer& layer) {
    for (std::size_t i = 0; i < layer.query.size(); ++i) {
      const std::size_t row = tail.num_seen() + i / (q_heads * dim), head = i / dim % q_heads;
      collected.queries[layer.layer][(head * tokens.size() + row) * dim + i % dim] =
          core::float_to_float16(layer.query[i]);
    }
  });
  for (std::size_t at = 0; at < tokens.size(); at += runtime::kMaxStepRows) {
    const auto rows = tokens.subspan(at, std::min(runtime::kMaxStepRows, tokens.size() - at));
    const runtime::AgentStep step{&tail, rows, {}, 0, nullptr};
    REQUIRE(steps.step({&step, 1}));
  }
  for (std::uint32_t layer = 0; layer < model.config().num_layers; ++layer) {
    collected.keys.push_back(tail_values(tail, model.config(), layer, true));
    collected.values.push_back(tail_values(tail, model.config(), layer, false));
  }
  return collected;
}

// Relative root mean square difference.
inline double relative_difference(const std::vector<std::uint16_t>& a, const std::vector<std::uint16_t>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0.0, size = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(core::float16_to_float(a[i]));
    const double y = static_cast<double>(core::float16_to_float(b[i]));
    difference += (x - y) * (x - y);
    size += x * x;
  }
  return std::sqrt(difference / size);
}

// Positions [first, end) of each head, one head after another.
inline std::vector<std::uint16_t> positions_of(const std::vector<std::uint16_t>& heads, std::size_t num_heads,
                                               std::size_t head_dim, std::size_t first, std::size_t end) {
  const std::size_t num_tokens = heads.size() / num_heads / head_dim;
  std::vector<std::uint16_t> out;
  for (std::size_t head = 0; head < num_heads; ++head) {
    const auto begin = heads.begin() + static_cast<std::ptrdiff_t>(head * num_tokens * head_dim);
    out.insert(out.end(), begin + static_cast<std::ptrdiff_t>(first * head_dim),
               begin + static_cast<std::ptrdiff_t>(end * head_dim));
  }
  return out;
}

// The largest relative difference of a layer's keys or values, from position num_past on, between a prefill of all
// tokens and one of those that come after a past.
inline double difference_after_past(runtime::PrefillRunner& runner, const runtime::ModelFile& model,
                                    std::span<const std::uint32_t> tokens, std::uint32_t num_past,
                                    runtime::PrefillOptions options) {
  const std::size_t num_heads = model.config().num_kv_heads, dim = model.config().head_dim;
  const Collected whole = collect(runner, model, tokens, options);
  Collected past;
  for (std::size_t layer = 0; layer < whole.keys.size(); ++layer) {
    past.keys.push_back(positions_of(whole.keys[layer], num_heads, dim, 0, num_past));
    past.values.push_back(positions_of(whole.values[layer], num_heads, dim, 0, num_past));
  }
  options.num_past = num_past;
  options.past = [&](std::uint32_t layer) {
    return runtime::LayerKv{layer, num_past, past.keys[layer], past.values[layer]};
  };
  const Collected rest = collect(runner, model, tokens.subspan(num_past), options);
  double largest = 0.0;
  for (std::size_t layer = 0; layer < whole.keys.size(); ++layer) {
    const auto keys = positions_of(whole.keys[layer], num_heads, dim, num_past, tokens.size());
    const auto values = positions_of(whole.values[layer], num_heads, dim, num_past, tokens.size());
    largest = std::max(
        {largest, relative_difference(keys, rest.keys[layer]), relative_difference(values, rest.values[layer])});
  }
  return largest;
}

}  // namespace polykv::tests
