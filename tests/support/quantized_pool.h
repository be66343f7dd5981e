// A pool in memory, made from a prefill's keys and values: every head's positions but the sinks in one run, each
// (layer, kv_head) in a codec of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cli/runtime/codec_plan.h"
#include "cli/runtime/dimension_weights.h"
#include "core/codec.h"
#include "core/pool.h"
#include "format/bytes.h"
#include "format/layout.h"
#include "format/page_layout.h"
#include "format/section.h"
#include "format/shape.h"

namespace polykv::tests {

// All layers' keys and values in the order of runtime::LayerKv.
struct Collected {
  std::vector<std::vector<std::uint16_t>> keys, values;  // [layer], float16 bits [kv_head][position][head_dim]
  std::vector<std::vector<std::uint16_t>> queries = {};  // the same of q_heads; empty where nobody asked for them
};

using CodecsOfHeads = std::vector<core::CodecPair>;  // [layer * num_kv_heads + kv_head]

inline CodecsOfHeads same_codec(const format::KvShape& shape, core::CodecPair codec) {
  return CodecsOfHeads(std::size_t{shape.num_layers} * shape.num_kv_heads, codec);
}

class QuantizedPool {
 public:
  // Has the pool a section of means and balances? As in a file: if a key codec removes the mean. kAlways: values have
  // balances even where all keys are float16, as if other heads' keys were not.
  enum class Means { kAsInFile, kAlways };

  // kv holds the shape's positions; `codecs` one pair a head; `kept` what a head keeps besides the sinks (empty: all).
  // Errors: as core::quantize_run.
  static format::Result<QuantizedPool> make(const Collected& kv, const format::KvShape& shape, CodecsOfHeads codecs,
                                            runtime::DimensionWeights weights = {}, Means means = Means::kAsInFile,
                                            const runtime::KeptPositions& kept = {}) {
    QuantizedPool pool(shape, std::move(codecs), means, kept);
    pool.weights_ = std::move(weights);
    POLYKV_TRY(const std::uint64_t num_bytes, pool.layout_.place(shape));
    pool.pages_.resize(num_bytes);
    for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer)
      for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head)
        POLYKV_CHECK_STATUS(pool.quantize_head(kv, layer, head));
    return pool;
  }

  // A view: the pool must outlive it and stay where it is.
  core::KvPool view() const {
    return core::KvPool(
        {shape_, 0, num_sinks(), &layout_, pages_, std::as_bytes(std::span(sinks_)), std::as_bytes(std::span(means_))});
  }

  // What `stats` would call kv_bytes if the pool were a file: the sections needed to restore keys and values, each
  // padded as in a file.
  std::uint64_t kv_bytes() const {
    std::uint64_t sum = 0;
    for (const std::size_t bytes :
         {pages_.size(), sinks_.size() * 2, means_.size() * 2, layout_.serialize(shape_).size()})
      sum += *format::checked_align(bytes, format::kSectionAlignment);
    return sum;
  }
  double bits_per_value() const {
    const double num_values = 2.0 * shape_.num_layers * shape_.num_kv_heads * shape_.num_tokens * shape_.head_dim;
    return 8.0 * static_cast<double>(kv_bytes()) / num_values;
  }

  // One head's positions after the sinks, as the pages hold them: [num_positions][head_dim].
  void dequantize_head(std::uint32_t layer, std::uint32_t head, std::span<float> keys, std::span<float> values) const {
    core::dequantize_run(codec_of(layer, head), run_of(layer, head).exponents,
                         std::span(pages_).subspan(run_of(layer, head).pages_offset, run_bytes(layer, head)),
                         num_positions(layer, head), shape_.head_dim, transform_of(layer, head), keys, values);
  }

  const format::KvShape& shape() const { return shape_; }
  std::uint32_t num_sinks() const { return std::min(shape_.num_tokens, format::kNumSinks); }
  std::uint32_t num_positions() const { return shape_.num_tokens - num_sinks(); }  // of each run, if all are kept
  std::uint32_t num_positions(std::uint32_t layer, std::uint32_t head) const {
    return has_run(layer, head) ? positions_of(layer, head).num_positions() : 0;
  }

 private:
  QuantizedPool(const format::KvShape& shape, CodecsOfHeads codecs, Means means, const runtime::KeptPositions& kept)
      : shape_(shape), codecs_(std::move(codecs)), layout_(runtime::plan_layout(shape, codecs_, kept)) {
    if (means == Means::kAlways || runtime::removes_means(layout_))
      means_.resize(codecs_.size() * format::kMeanVectors * shape_.head_dim);  // some heads' are unused
    sinks_.reserve(codecs_.size() * 2 * num_sinks() * shape_.head_dim);
  }

  bool has_run(std::uint32_t layer, std::uint32_t head) const {
    return !layout_.runs[layer * shape_.num_kv_heads + head].empty();
  }
  const format::PositionSet& positions_of(std::uint32_t layer, std::uint32_t head) const {
    return layout_.position_sets[run_of(layer, head).position_set];
  }
  core::CodecPair codec_of(std::uint32_t layer, std::uint32_t head) const {
    return codecs_[layer * shape_.num_kv_heads + head];
  }
  const format::Run& run_of(std::uint32_t layer, std::uint32_t head) const {
    return layout_.runs[layer * shape_.num_kv_heads + head].front();
  }
  std::size_t run_bytes(std::uint32_t layer, std::uint32_t head) const {
    const core::CodecPair codec = codec_of(layer, head);
    return format::run_bytes(codec.key, codec.value, shape_.head_dim, num_positions(layer, head));
  }
  // As make_transform left it.
  core::HeadTransform transform_of(std::uint32_t layer, std::uint32_t head) const {
    if (means_.empty()) return {};
    const std::size_t dim = shape_.head_dim, index = std::size_t{layer} * shape_.num_kv_heads + head;
    const auto vectors = std::span(means_).subspan(index * format::kMeanVectors * dim, format::kMeanVectors * dim);
    return {vectors.subspan(0, dim), vectors.subspan(dim, dim), vectors.subspan(2 * dim, dim)};
  }

  format::Status quantize_head(const Collected& kv, std::uint32_t layer, std::uint32_t head) {
    const std::size_t dim = shape_.head_dim, head_values = shape_.num_tokens * dim, sink_values = num_sinks() * dim;
    const auto keys = std::span(kv.keys[layer]).subspan(head * head_values, head_values);
    const auto values = std::span(kv.values[layer]).subspan(head * head_values, head_values);
    for (const auto& part : {keys, values})
      sinks_.insert(sinks_.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(sink_values));
    std::vector<std::uint16_t> kept_keys, kept_values;  // none without a run; balances are 1 then
    if (has_run(layer, head)) {
      runtime::append_positions(positions_of(layer, head).ranges, 0, dim, keys, kept_keys);
      runtime::append_positions(positions_of(layer, head).ranges, 0, dim, values, kept_values);
    }
    const std::size_t index = std::size_t{layer} * shape_.num_kv_heads + head;
    const std::size_t mean_values = means_.empty() ? 0 : format::kMeanVectors * dim;
    const core::HeadTransform transform =
        runtime::make_transform(codec_of(layer, head), kept_keys, kept_values, weights_, index,
                                std::span(means_).subspan(index * mean_values, mean_values));
    if (!has_run(layer, head)) return {};
    POLYKV_TRY(layout_.runs[index].front().exponents,
               core::quantize_run(codec_of(layer, head), kept_keys, kept_values, dim, transform,
                                  std::span(pages_).subspan(run_of(layer, head).pages_offset, run_bytes(layer, head))));
    return {};
  }

  format::KvShape shape_;
  CodecsOfHeads codecs_;
  format::Layout layout_;
  std::vector<std::byte> pages_;
  runtime::DimensionWeights weights_;
  std::vector<std::uint16_t> sinks_, means_;
};

}  // namespace polykv::tests
