#include "cli/runtime/retention/drop_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "cli/runtime/retention/packed_keys.h"
#include "core/float16.h"
#include "core/kernels/attention.h"
#include "core/kernels/kernels.h"
#include "format/layout.h"
#include "format/page_layout.h"
#include "format/shape.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kNumShares = kKeptShares.size();

// |W_d|^2 of each column, [q_head][head_dim].
std::vector<double> column_squares(const core::WeightMatrix& output) {
  std::vector<double> squares(output.num_cols);
  std::vector<float> row(output.num_cols);
  for (std::size_t r = 0; r < output.num_rows; ++r) {
    core::dequantize_row(output, r, row);
    for (std::size_t c = 0; c < row.size(); ++c) squares[c] += double{row[c]} * double{row[c]};
  }
  return squares;
}

// For each position the smallest share that keeps it, as an index; sinks are kept by all.
std::vector<std::uint8_t> smallest_shares(std::span<const float> scores) {
  const std::vector<std::uint32_t> ranked = ranked_positions(scores);
  std::vector<std::uint8_t> shares(scores.size(), kNumShares - 1);
  for (std::size_t share = kNumShares; share-- > 0;) {
    const std::uint32_t end = kept_of_share(static_cast<std::uint32_t>(ranked.size()), share);
    const std::uint32_t begin =
        share + 1 < kNumShares ? kept_of_share(static_cast<std::uint32_t>(ranked.size()), share + 1) : 0;
    for (std::uint32_t i = begin; i < end; ++i) shares[ranked[i]] = static_cast<std::uint8_t>(share);
  }
  return shares;
}

}  // namespace

std::uint32_t kept_of_share(std::uint32_t num_positions, std::size_t share) {
  const auto count = static_cast<std::uint32_t>(std::lround(kKeptShares[share] * num_positions));
  return std::clamp(count, std::min(num_positions, 1u), num_positions);
}

std::vector<std::uint32_t> ranked_positions(std::span<const float> scores) {
  const std::size_t num_sinks = std::min<std::size_t>(scores.size(), format::kNumSinks);
  std::vector<std::uint32_t> ranked(scores.size() - num_sinks);
  std::iota(ranked.begin(), ranked.end(), static_cast<std::uint32_t>(num_sinks));
  std::sort(ranked.begin(), ranked.end(),
            [&](std::uint32_t a, std::uint32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a > b; });
  return ranked;
}

namespace {

// Softmax weights below this are left out of the sums, where they would cost nine tenths of the time: what thousands of
// such positions give is a few hundredths of the output at most.
constexpr float kLeastWeight = 1e-5f;

// One q head of a layer: its losses, [policy][share].
class HeadLosses {
 public:
  HeadLosses(const DropLayer& layer, std::span<const std::span<const float>> scores, const PackedKeys& keys,
             std::span<const double> columns, std::size_t q_head)
      : layer_(layer),
        keys_(keys),
        columns_(columns),
        q_head_(q_head),
        head_(q_head / layer.config.q_per_kv()),
        dim_(layer.config.head_dim),
        padded_dim_(format::padded_value_dim(dim_)),
        losses_(scores.size() * kNumShares),
        output_(padded_dim_),
        sums_(losses_.size() * padded_dim_),
        mass_(losses_.size()) {
    for (const auto& policy : scores)
      shares_.push_back(smallest_shares(policy.subspan(head_ * layer.num_tokens, layer.num_tokens)));
    const auto values = layer.values.subspan(head_ * layer.num_tokens * dim_, layer.num_tokens * dim_);
    values_.resize(std::size_t{layer.num_tokens} * padded_dim_);
    for (std::size_t i = 0; i < values.size(); ++i)
      values_[i / dim_ * padded_dim_ + i % dim_] = core::float16_to_float(values[i]);
  }

  const std::vector<double>& run() {
    for (const ReplayedRows& rows : layer_.rows) add(rows);
    return losses_;
  }

 private:
  void add(const ReplayedRows& rows);
  void add_scaled(float factor, const float* from, float* to) const {
    kernels_.merge(to, 1.0f, from, factor, padded_dim_);
  }
  void add_row(const ReplayedRows& rows, std::size_t row, std::span<float> weights, std::span<float> own);

  const core::AttentionKernels& kernels_ = *core::active_kernels().attention;
  const DropLayer& layer_;
  const PackedKeys& keys_;
  std::span<const double> columns_;
  std::size_t q_head_, head_, dim_, padded_dim_;
  std::vector<std::vector<std::uint8_t>> shares_;  // [policy][position]
  std::vector<float> values_;                      // [position][padded_dim]
  std::vector<double> losses_;
  // Of one row: the output, and what positions give it, by the smallest share that keeps them.
  std::vector<float> output_, sums_;  // [padded_dim], [policy][share][padded_dim]
  std::vector<double> mass_;          // [policy][share]
};

void HeadLosses::add(const ReplayedRows& rows) {
  const std::size_t num_q = layer_.config.num_q_heads, counted = rows.num_rows - rows.first_counted;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim_)));
  const std::size_t own_offset =
      (std::size_t{layer_.layer} * layer_.config.num_kv_heads + head_) * rows.num_rows * dim_;
  const PackedKeys own_keys(std::span(rows.keys).subspan(own_offset, rows.num_rows * dim_), dim_);
  const std::size_t num_slots = (rows.visible + 15) / 16 * 16, width = num_slots + own_keys.num_slots();
  for (std::size_t first = 0; first < counted; first += core::kMaxVectors) {
    const std::size_t count = std::min(core::kMaxVectors, counted - first);
    std::vector<float> queries, weights(count * width);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t row = rows.first_counted + first + i;
      const float* query = rows.queries.data() + ((layer_.layer * rows.num_rows + row) * num_q + q_head_) * dim_;
      for (std::size_t d = 0; d < dim_; ++d) queries.push_back(query[d] * scale);
    }
    keys_.score(queries.data(), count, {0, num_slots}, weights.data(), width);
    own_keys.score(queries.data(), count, {0, own_keys.num_slots()}, weights.data() + num_slots, width);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t row = rows.first_counted + first + i;
      float* all = weights.data() + i * width;
      // Slots between the document and the row's own, and those after it, are not there.
      std::fill(all + rows.visible, all + num_slots, -std::numeric_limits<float>::infinity());
      const core::SoftmaxSum sum = kernels_.softmax(all, 0, num_slots + row + 1, width);
      for (std::size_t t = 0; t < width; ++t) all[t] /= sum.sum;
      add_row(rows, row, {all, num_slots}, {all + num_slots, row + 1});
    }
  }
}

void HeadLosses::add_row(const ReplayedRows& rows, std::size_t row, std::span<float> weights, std::span<float> own) {
  const std::size_t own_offset =
      (std::size_t{layer_.layer} * layer_.config.num_kv_heads + head_) * rows.num_rows * dim_;
  std::fill(output_.begin(), output_.end(), 0.0f);
  for (std::size_t r = 0; r < own.size(); ++r)
    for (std::size_t d = 0; d < dim_; ++d)
      output_[d] += own[r] * core::float16_to_float(rows.values[own_offset + r * dim_ + d]);
  std::fill(sums_.begin(), sums_.end(), 0.0f);
  std::fill(mass_.begin(), mass_.end(), 0.0);
  for (std::uint32_t t = 0; t < rows.visible; ++t) {
    if (weights[t] < kLeastWeight) continue;
    const float* value = values_.data() + t * padded_dim_;
    add_scaled(weights[t], value, output_.data());
    for (std::size_t policy = 0; policy < shares_.size(); ++policy) {
      const std::size_t part = policy * kNumShares + shares_[policy][t];
      mass_[part] += double{weights[t]};
      add_scaled(weights[t], value, sums_.data() + part * padded_dim_);
    }
  }
  const double unit = rows.weight / double{rows.stream_squares[layer_.layer * rows.num_rows + row]};
  for (std::size_t policy = 0; policy < shares_.size(); ++policy) {
    std::vector<double> dropped(dim_);
    double lost = 0.0;
    for (std::size_t share = 1; share < kNumShares; ++share) {
      const std::size_t part = policy * kNumShares + share - 1;
      lost += mass_[part];
      double squares = 0.0;
      for (std::size_t d = 0; d < dim_; ++d) {
        dropped[d] += double{sums_[part * padded_dim_ + d]};
        const double error = (lost * double{output_[d]} - dropped[d]) / std::max(1.0 - lost, 1e-6);
        squares += columns_[q_head_ * dim_ + d] * error * error;
      }
      losses_[policy * kNumShares + share] += unit * squares;
    }
  }
}

}  // namespace

std::vector<double> drop_losses(const DropLayer& layer, std::span<const std::span<const float>> scores,
                                core::Workers& workers) {
  const std::size_t num_kv = layer.config.num_kv_heads, group = layer.config.q_per_kv(), num_q = num_kv * group;
  const std::size_t head_size = std::size_t{layer.num_tokens} * layer.config.head_dim;
  std::vector<PackedKeys> keys;
  for (std::size_t head = 0; head < num_kv; ++head)
    keys.emplace_back(layer.keys.subspan(head * head_size, head_size), layer.config.head_dim);
  const std::vector<double> columns = column_squares(layer.attention_output);
  std::vector<std::vector<double>> of_q_heads(num_q);
  workers.run(num_q, [&](std::size_t q_head, std::size_t) {
    of_q_heads[q_head] = HeadLosses(layer, scores, keys[q_head / group], columns, q_head).run();
  });
  std::vector<double> result(scores.size() * num_kv * kNumShares);
  for (std::size_t q_head = 0; q_head < num_q; ++q_head)
    for (std::size_t i = 0; i < of_q_heads[q_head].size(); ++i)
      result[(i / kNumShares * num_kv + q_head / group) * kNumShares + i % kNumShares] += of_q_heads[q_head][i];
  return result;
}

}  // namespace polykv::runtime
