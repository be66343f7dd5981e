#include "cli/runtime/retention/layer_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/float16.h"
#include "core/kernels/attention.h"
#include "core/kernels/kernels.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kTile = format::kTileTokens;

// Rows that are summed before sums are joined: a fixed number, so that threads change nothing.
constexpr std::size_t kSegmentRows = 512;

}  // namespace

struct LayerAttention::Scratch {
  std::vector<float> queries;  // [vector][head_dim], scaled
  std::vector<float> weights;  // [vector][padded tokens]; vectors are [row][q head of the group]
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

// At most kMaxVectors vectors.
void LayerAttention::weigh(std::size_t kv_head, std::span<const std::size_t> rows, Scratch& scratch) const {
  const core::AttentionKernels& kernels = *core::active_kernels().attention;
  const std::size_t num_vectors = rows.size() * group_, visible = rows.back() + 1;
  const std::size_t num_slots = (visible + kTile - 1) / kTile * kTile;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)));
  scratch.queries.resize(num_vectors * head_dim_);
  scratch.weights.resize(core::kMaxVectors * padded_tokens_);
  for (std::size_t v = 0; v < num_vectors; ++v) {
    const std::size_t row = rows[v / group_], q_head = kv_head * group_ + v % group_;
    const std::uint16_t* query = layer_.kv.queries.data() + (q_head * num_tokens_ + row) * head_dim_;
    for (std::size_t d = 0; d < head_dim_; ++d)
      scratch.queries[v * head_dim_ + d] = core::float16_to_float(query[d]) * scale;
  }
  keys_[kv_head].score(scratch.queries.data(), num_vectors, num_slots, scratch.weights.data(), padded_tokens_);
  for (std::size_t v = 0; v < num_vectors; ++v) {
    float* weights = scratch.weights.data() + v * padded_tokens_;
    const core::SoftmaxSum sum = kernels.softmax(weights, 0, rows[v / group_] + 1, num_slots);
    const float factor = sum.sum > 0.0f ? 1.0f / sum.sum : 0.0f;
    for (std::size_t t = 0; t < num_slots; ++t) weights[t] *= factor;
  }
}

std::vector<float> LayerAttention::sum_rows(std::size_t first, std::size_t end, const AddRow& add,
                                            std::size_t stride) const {
  std::vector<std::size_t> rows;
  for (std::size_t row = end; row > first; row -= std::min(row, stride)) rows.push_back(row - 1);
  std::reverse(rows.begin(), rows.end());
  const std::size_t num_heads = layer_.config.num_kv_heads;
  const std::size_t num_segments = (rows.size() + kSegmentRows - 1) / kSegmentRows;
  const std::size_t block_rows = std::max<std::size_t>(1, core::kMaxVectors / group_);
  std::vector<Scratch> scratch(layer_.workers.num_threads());
  std::vector<float> sums(num_heads * num_segments * num_tokens_);
  layer_.workers.run(num_heads * num_segments, [&](std::size_t task, std::size_t worker) {
    const std::size_t segment = num_segments - 1 - task / num_heads, head = task % num_heads;  // longest first
    const std::size_t segment_end = std::min((segment + 1) * kSegmentRows, rows.size());
    const std::span<float> part(sums.data() + (head * num_segments + segment) * num_tokens_, num_tokens_);
    for (std::size_t at = segment * kSegmentRows; at < segment_end; at += block_rows) {
      const auto block = std::span(rows).subspan(at, std::min(block_rows, segment_end - at));
      weigh(head, block, scratch[worker]);
      for (std::size_t v = 0; v < block.size() * group_; ++v) {
        const std::size_t row = block[v / group_];
        add(row, {scratch[worker].weights.data() + v * padded_tokens_, row + 1}, part);
      }
    }
  });
  std::vector<float> result(num_heads * num_tokens_);
  for (std::size_t head = 0; head < num_heads; ++head)
    for (std::size_t segment = 0; segment < num_segments; ++segment)
      for (std::size_t t = 0; t < num_tokens_; ++t)
        result[head * num_tokens_ + t] += sums[(head * num_segments + segment) * num_tokens_ + t];
  return result;
}

std::vector<float> LayerAttention::rows(std::size_t first, std::size_t end) const {
  const std::size_t num_rows = end - first, block_rows = std::max<std::size_t>(1, core::kMaxVectors / group_);
  const std::size_t num_blocks = (num_rows + block_rows - 1) / block_rows;
  std::vector<std::size_t> all(num_rows);
  std::iota(all.begin(), all.end(), first);
  std::vector<Scratch> scratch(layer_.workers.num_threads());
  std::vector<float> result(layer_.config.num_q_heads * num_rows * num_tokens_);
  layer_.workers.run(num_blocks * layer_.config.num_kv_heads, [&](std::size_t task, std::size_t worker) {
    const std::size_t head = task % layer_.config.num_kv_heads;
    const std::size_t at = task / layer_.config.num_kv_heads * block_rows;
    const auto block = std::span(all).subspan(at, std::min(block_rows, num_rows - at));
    weigh(head, block, scratch[worker]);
    for (std::size_t v = 0; v < block.size() * group_; ++v) {
      const std::size_t q_head = head * group_ + v % group_, index = at + v / group_;
      std::copy_n(scratch[worker].weights.data() + v * padded_tokens_, block[v / group_] + 1,
                  result.data() + (q_head * num_rows + index) * num_tokens_);
    }
  });
  return result;
}

}  // namespace polykv::runtime
