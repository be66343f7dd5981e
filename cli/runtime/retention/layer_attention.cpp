#include "cli/runtime/retention/layer_attention.h"

#include <algorithm>
#include <cmath>

#include "core/float16.h"
#include "core/kernels/attention.h"
#include "core/kernels/kernels.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kTile = format::kTileTokens;

// Rows that are summed before sums are joined: a fixed number, so that threads change nothing.
constexpr std::size_t kSegmentRows = 512;

void add_weights(std::span<const float> weights, std::span<float> sums) {
  for (std::size_t t = 0; t < weights.size(); ++t) sums[t] += weights[t];
}

}  // namespace

struct LayerAttention::Scratch {
  std::vector<float> queries;  // [vector][head_dim], scaled
  std::vector<float> weights;  // [vector][padded tokens], from the first tile that is seen
};

LayerAttention::LayerAttention(const RetentionLayer& layer)
    : layer_(layer),
      num_tokens_(layer.num_tokens()),
      padded_tokens_((num_tokens_ + kTile - 1) / kTile * kTile),
      head_dim_(layer.config.head_dim),
      group_(layer.config.q_per_kv()) {
  const std::size_t head_size = num_tokens_ * head_dim_;
  for (std::size_t head = 0; head < layer.config.num_kv_heads; ++head)
    keys_.emplace_back(layer.kv.keys.subspan(head * head_size, head_size), head_dim_);
}

LayerAttention::Sight LayerAttention::causal(std::size_t end_row) const {
  return {0, end_row, true, static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)))};
}

void LayerAttention::weigh(std::size_t kv_head, const Rows& rows, std::size_t first, std::size_t end,
                           const Sight& sight, Scratch& scratch) const {
  const core::AttentionKernels& kernels = *core::active_kernels().attention;
  const std::size_t num_vectors = end - first, first_slot = sight.begin / kTile * kTile;
  const std::size_t num_slots = (sight.end - first_slot + kTile - 1) / kTile * kTile;
  scratch.queries.resize(core::kMaxVectors * head_dim_);
  scratch.weights.resize(core::kMaxVectors * padded_tokens_);
  const auto row_of = [&](std::size_t v) { return rows.first + (first + v) / group_ * rows.stride; };
  for (std::size_t v = 0; v < num_vectors; ++v) {
    const std::size_t q_head = kv_head * group_ + (first + v) % group_;
    const std::uint16_t* query = layer_.kv.queries.data() + (q_head * num_tokens_ + row_of(v)) * head_dim_;
    for (std::size_t d = 0; d < head_dim_; ++d)
      scratch.queries[v * head_dim_ + d] = core::float16_to_float(query[d]) * sight.scale;
  }
  keys_[kv_head].score(scratch.queries.data(), num_vectors, {first_slot, first_slot + num_slots},
                       scratch.weights.data(), padded_tokens_);
  for (std::size_t v = 0; v < num_vectors; ++v) {
    float* weights = scratch.weights.data() + v * padded_tokens_;
    const std::size_t seen_end = sight.causal ? row_of(v) + 1 : sight.end;
    const core::SoftmaxSum sum = kernels.softmax(weights, sight.begin - first_slot, seen_end - first_slot, num_slots);
    const float factor = sum.sum > 0.0f ? 1.0f / sum.sum : 0.0f;
    for (std::size_t t = 0; t < num_slots; ++t) weights[t] *= factor;
  }
}

template <typename Use>
void LayerAttention::each_row(std::size_t kv_head, const Rows& rows, const Sight& sight, Scratch& scratch,
                              const Use& use) const {
  const std::size_t num_vectors = rows.count() * group_;
  for (std::size_t first = 0; first < num_vectors; first += core::kMaxVectors) {
    const std::size_t end = std::min(first + core::kMaxVectors, num_vectors);
    Sight seen = sight;
    if (sight.causal) seen.end = rows.first + (end - 1) / group_ * rows.stride + 1;
    weigh(kv_head, rows, first, end, seen, scratch);
    for (std::size_t n = first; n < end; ++n) {
      const std::size_t row = rows.first + n / group_ * rows.stride;
      const std::size_t count = (sight.causal ? row + 1 : sight.end) - sight.begin;
      const float* weights = scratch.weights.data() + (n - first) * padded_tokens_ + sight.begin % kTile;
      use(kv_head * group_ + n % group_, row, std::span(weights, count));
    }
  }
}

std::vector<float> LayerAttention::sum_rows(const Rows& rows, const AddRow& add) const {
  const std::size_t num_heads = layer_.config.num_kv_heads, num_q_heads = layer_.config.num_q_heads;
  const std::size_t num_segments = (rows.count() + kSegmentRows - 1) / kSegmentRows;
  std::vector<Scratch> scratch(layer_.workers.num_threads());
  std::vector<float> sums(num_segments * num_q_heads * num_tokens_);  // [segment][q_head][num_tokens]
  layer_.workers.run(num_heads * num_segments, [&](std::size_t task, std::size_t worker) {
    const std::size_t segment = num_segments - 1 - task / num_heads, head = task % num_heads;  // longest first
    const std::size_t begin = rows.first + segment * kSegmentRows * rows.stride;
    const std::size_t end = std::min(begin + kSegmentRows * rows.stride, rows.end);
    float* of_segment = sums.data() + segment * num_q_heads * num_tokens_;
    each_row(head, {begin, end, rows.stride}, causal(end), scratch[worker],
             [&](std::size_t q_head, std::size_t, std::span<const float> weights) {
               add(weights, {of_segment + q_head * num_tokens_, num_tokens_});
             });
  });
  std::vector<float> result(num_q_heads * num_tokens_);
  for (std::size_t segment = 0; segment < num_segments; ++segment)
    for (std::size_t i = 0; i < result.size(); ++i) result[i] += sums[segment * result.size() + i];
  return result;
}

std::vector<float> LayerAttention::sum_rows(const Rows& rows) const { return sum_rows(rows, add_weights); }

std::vector<float> LayerAttention::rows(std::size_t first, std::size_t end) const {
  const std::size_t num_heads = layer_.config.num_kv_heads, num_rows = end - first;
  const std::size_t block_rows = std::max<std::size_t>(1, core::kMaxVectors / group_);
  std::vector<Scratch> scratch(layer_.workers.num_threads());
  std::vector<float> result(layer_.config.num_q_heads * num_rows * num_tokens_);
  layer_.workers.run((num_rows + block_rows - 1) / block_rows * num_heads, [&](std::size_t task, std::size_t worker) {
    const std::size_t begin = first + task / num_heads * block_rows;
    each_row(task % num_heads, {begin, std::min(begin + block_rows, end)}, causal(end), scratch[worker],
             [&](std::size_t q_head, std::size_t row, std::span<const float> weights) {
               std::copy(weights.begin(), weights.end(),
                         result.begin() + static_cast<std::ptrdiff_t>((q_head * num_rows + row - first) * num_tokens_));
             });
  });
  return result;
}

std::vector<float> LayerAttention::sum_chunks(std::size_t first, std::size_t end, std::size_t chunk,
                                              float scale) const {
  const std::size_t num_heads = layer_.config.num_kv_heads, num_chunks = (end - first + chunk - 1) / chunk;
  std::vector<Scratch> scratch(layer_.workers.num_threads());
  std::vector<float> result(layer_.config.num_q_heads * num_tokens_);
  layer_.workers.run(num_chunks * num_heads, [&](std::size_t task, std::size_t worker) {
    const std::size_t begin = first + task / num_heads * chunk, chunk_end = std::min(begin + chunk, end);
    each_row(task % num_heads, {begin, chunk_end}, {begin, chunk_end, false, scale}, scratch[worker],
             [&](std::size_t q_head, std::size_t, std::span<const float> weights) {
               add_weights(weights, {result.data() + q_head * num_tokens_ + begin, weights.size()});
             });
  });
  return result;
}

std::vector<float> sum_groups(const RetentionLayer& layer, std::span<const float> q_heads) {
  const std::size_t num_tokens = layer.num_tokens(), group = layer.config.q_per_kv();
  std::vector<float> sums(layer.config.num_kv_heads * num_tokens);
  for (std::size_t i = 0; i < q_heads.size(); ++i)
    sums[i / num_tokens / group * num_tokens + i % num_tokens] += q_heads[i];
  return sums;
}

}  // namespace polykv::runtime
