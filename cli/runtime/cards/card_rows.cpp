#include "cli/runtime/cards/card_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/float16.h"

namespace polykv::runtime {
namespace {

void append(std::span<const float> rows, std::size_t first, std::size_t count, std::size_t row_size,
            std::vector<float>& to) {
  const auto part = rows.subspan(first * row_size, count * row_size);
  to.insert(to.end(), part.begin(), part.end());
}

template <typename T>
void keep_last(std::size_t num_rows, std::size_t row_size, std::vector<T>& rows) {
  const std::size_t most = num_rows * row_size;
  if (rows.size() > most) rows.erase(rows.begin(), rows.end() - static_cast<std::ptrdiff_t>(most));
}

float dot(const float* a, const float* b, std::size_t size) {
  float sums[4] = {};
  for (std::size_t i = 0; i < size; i += 4)  // head_dim is a multiple of 8
    for (std::size_t lane = 0; lane < 4; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

// One head's, as floats.
struct CardRows::HeadFloats {
  std::vector<float> keys, values;                // [token][head_dim]
  std::vector<float> key_squares, value_squares;  // [token]: of the key less the mean, of the value

  HeadFloats(const core::Tail& tail, std::uint32_t layer, std::uint32_t kv_head, std::uint32_t num_tokens,
             std::size_t dim) {
    std::vector<std::uint16_t> keys16, values16;
    tail.copy_head(layer, kv_head, keys16, values16);
    for (std::size_t i = 0; i < num_tokens * dim; ++i) {
      keys.push_back(core::float16_to_float(keys16[i]));
      values.push_back(core::float16_to_float(values16[i]));
    }
    std::vector<float> mean(dim);
    for (std::size_t i = 0; i < keys.size(); ++i) mean[i % dim] += keys[i] / static_cast<float>(num_tokens);
    std::vector<float> centred(dim);
    for (std::uint32_t t = 0; t < num_tokens; ++t) {
      for (std::size_t d = 0; d < dim; ++d) centred[d] = keys[t * dim + d] - mean[d];
      key_squares.push_back(dot(centred.data(), centred.data(), dim));
      value_squares.push_back(dot(&values[t * dim], &values[t * dim], dim));
    }
  }
};

void CardRows::add(const StepLayer& step, std::size_t first, std::size_t count, std::uint32_t num_seen) {
  Layer& layer = layers_[step.layer];
  const std::size_t row_size = std::size_t{config_.num_q_heads} * config_.head_dim, hidden_size = config_.hidden_size;
  append(step.query, first, count, row_size, layer.query);
  append(step.mixed, first, count, row_size, layer.mixed);
  append(step.log_sums, first, count, config_.num_q_heads, layer.log_sums);
  for (std::size_t row = first; row < first + count; ++row) {
    const auto stream = step.hidden.subspan(row * hidden_size, hidden_size);
    layer.hidden.push_back(std::inner_product(stream.begin(), stream.end(), stream.begin(), 0.0f));
    layer.num_seen.push_back(num_seen + static_cast<std::uint32_t>(row - first));
  }
  keep_last(kMostRows, row_size, layer.query);
  keep_last(kMostRows, row_size, layer.mixed);
  keep_last(kMostRows, config_.num_q_heads, layer.log_sums);
  keep_last(kMostRows, 1, layer.hidden);
  keep_last(kMostRows, 1, layer.num_seen);
}

format::Status CardRows::look_ahead(StepRunner& runner, core::Tail& tail, std::span<const std::uint32_t> tokens) {
  const std::uint32_t num_before = tail.num_seen();
  tokens = tokens.first(std::min<std::size_t>({tokens.size(), kMaxStepRows, tail.capacity() - num_before}));
  if (tokens.empty()) return {};
  runner.observe([&](const StepLayer& step) { add(step, 0, step.num_rows, num_before + 1); });
  const AgentStep step{&tail, tokens, runner.everything(), 0, nullptr};
  const format::Status status = runner.step({&step, 1});
  runner.observe({});
  if (status) tail.truncate(num_before);
  return status;
}

TokenSensitivities CardRows::measure(const core::Tail& tail, std::uint32_t num_tokens,
                                     std::span<const float> output_squares, core::Workers& workers) const {
  const std::size_t num_kv_heads = config_.num_kv_heads, dim = config_.head_dim;
  TokenSensitivities result(config_.num_layers * num_kv_heads, std::vector<Sensitivity>(num_tokens));
  workers.run(result.size(), [&](std::size_t head, std::size_t) {
    const std::size_t layer = head / num_kv_heads, kv_head = head % num_kv_heads;
    const auto squares = output_squares.subspan(head * dim, dim);
    const float output_square =
        std::accumulate(squares.begin(), squares.end(), 0.0f) / static_cast<float>(config_.q_per_kv());
    const HeadFloats kv(tail, static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(kv_head), num_tokens, dim);
    measure_head(layers_[layer], kv_head, kv, output_square, result[head]);
  });
  return result;
}

TokenWeights CardRows::weights(const core::Tail& tail, std::size_t num_tokens, core::Workers& workers) const {
  const std::size_t num_kv_heads = config_.num_kv_heads, group = config_.q_per_kv();
  TokenWeights result(config_.num_layers * std::size_t{config_.num_q_heads}, std::vector<double>(num_tokens));
  workers.run(config_.num_layers * num_kv_heads, [&](std::size_t head, std::size_t) {
    const std::size_t layer = head / num_kv_heads, kv_head = head % num_kv_heads;
    const HeadFloats kv(tail, static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(kv_head),
                        static_cast<std::uint32_t>(num_tokens), config_.head_dim);
    for (std::size_t q_head = kv_head * group; q_head < (kv_head + 1) * group; ++q_head)
      mean_weights(layers_[layer], q_head, kv, result[layer * config_.num_q_heads + q_head]);
  });
  return result;
}

void CardRows::mean_weights(const Layer& layer, std::size_t q_head, const HeadFloats& kv,
                            std::span<double> means) const {
  const std::size_t dim = config_.head_dim, num_q_heads = config_.num_q_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  std::vector<std::size_t> num_rows(means.size());
  for (std::size_t row = 0; row < layer.num_seen.size(); ++row) {
    const float* query = &layer.query[(row * num_q_heads + q_head) * dim];
    const float log_sum = layer.log_sums[row * num_q_heads + q_head];
    const std::size_t num_others = std::min<std::size_t>(layer.num_seen[row] - 1, means.size());
    for (std::size_t t = 0; t < num_others; ++t) {
      means[t] += double{std::exp(dot(query, &kv.keys[t * dim], dim) * scale - log_sum)};
      ++num_rows[t];
    }
  }
  for (std::size_t t = 0; t < means.size(); ++t)
    if (num_rows[t] > 0) means[t] /= static_cast<double>(num_rows[t]);
}

// The formula of sensitivity.h, left apart by token.
void CardRows::measure_head(const Layer& layer, std::size_t kv_head, const HeadFloats& kv, float output_square,
                            std::span<Sensitivity> sums) const {
  const std::size_t dim = config_.head_dim, num_q_heads = config_.num_q_heads, group = config_.q_per_kv();
  const auto size = static_cast<float>(dim);
  const float scale = 1.0f / std::sqrt(size);
  std::vector<float> apart(dim);
  for (std::size_t row = 0; row < layer.num_seen.size(); ++row) {
    const std::size_t num_others = std::min<std::size_t>(layer.num_seen[row] - 1, sums.size());
    const float stream = output_square / size / layer.hidden[row] / static_cast<float>(layer.num_seen.size());
    for (std::size_t q_head = kv_head * group; q_head < (kv_head + 1) * group; ++q_head) {
      const float* query = &layer.query[(row * num_q_heads + q_head) * dim];
      const float* mixed = &layer.mixed[(row * num_q_heads + q_head) * dim];
      const float query_square = dot(query, query, dim) / (size * size);
      const float log_sum = layer.log_sums[row * num_q_heads + q_head];
      for (std::size_t t = 0; t < num_others; ++t) {
        const float weight = std::exp(dot(query, &kv.keys[t * dim], dim) * scale - log_sum);
        const float square = weight * weight * stream;
        for (std::size_t d = 0; d < dim; ++d) apart[d] = kv.values[t * dim + d] - mixed[d];
        sums[t].key += double{square * query_square * dot(apart.data(), apart.data(), dim) * kv.key_squares[t]};
        sums[t].value += double{square * kv.value_squares[t]};
      }
    }
  }
}

}  // namespace polykv::runtime
