#include "core/pool.h"

#include <algorithm>

#include "format/page_layout.h"
#include "format/reader.h"

namespace polykv::core {

std::uint32_t KvPool::Run::slots_below(std::uint32_t position) const {
  // The last range that begins at or before the position.
  const auto after =
      std::upper_bound(positions.begin(), positions.end(), position,
                       [](std::uint32_t p, const format::PositionRange& range) { return p < range.begin; });
  if (after == positions.begin()) return 0;
  const std::size_t i = static_cast<std::size_t>(after - positions.begin()) - 1;
  return first_slots[i] + std::min(position, positions[i].end) - positions[i].begin;
}

KvPool::KvPool(const Parts& parts) : parts_(parts) {
  const format::Layout& layout = *parts.layout;
  for (const format::PositionSet& set : layout.position_sets) {
    std::vector<std::uint32_t>& slots = first_slots_.emplace_back();
    std::uint32_t slot = 0;
    for (const format::PositionRange& range : set.ranges) {
      slots.push_back(slot);
      slot += range.end - range.begin;
    }
  }
  for (const std::vector<format::Run>& head : layout.runs) {
    first_run_.push_back(runs_.size());
    for (const format::Run& run : head) {
      const format::PositionSet& set = layout.position_sets[run.position_set];
      const std::uint32_t num_positions = set.num_positions();
      const std::size_t num_bytes =
          format::run_bytes(run.key_codec, run.value_codec, parts.shape.head_dim, num_positions);
      runs_.push_back(Run{{run.key_codec, run.value_codec},
                          run.exponents,
                          set.ranges,
                          first_slots_[run.position_set],
                          num_positions,
                          parts.pages.subspan(run.pages_offset, num_bytes)});
    }
  }
  first_run_.push_back(runs_.size());
}

KvPool::KvPool(const format::PoolReader& reader)
    : KvPool(Parts{reader.shape(), reader.first_position(), reader.num_sinks(), &reader.layout(), reader.pages(),
                   reader.sinks(), reader.means()}) {
  reader_ = &reader;
}

std::span<const KvPool::Run> KvPool::runs(std::uint32_t layer, std::uint32_t kv_head) const {
  const std::size_t head = head_index(layer, kv_head);
  return std::span(runs_).subspan(first_run_[head], first_run_[head + 1] - first_run_[head]);
}

std::span<const std::byte> KvPool::sink_keys(std::uint32_t layer, std::uint32_t kv_head) const {
  const std::size_t num_bytes = std::size_t{parts_.num_sinks} * parts_.shape.head_dim * 2;
  return parts_.sinks.subspan(head_index(layer, kv_head) * 2 * num_bytes, num_bytes);
}

std::span<const std::byte> KvPool::sink_values(std::uint32_t layer, std::uint32_t kv_head) const {
  const std::size_t num_bytes = std::size_t{parts_.num_sinks} * parts_.shape.head_dim * 2;
  return parts_.sinks.subspan((head_index(layer, kv_head) * 2 + 1) * num_bytes, num_bytes);
}

KvPool::Transform KvPool::transform(std::uint32_t layer, std::uint32_t kv_head) const {
  if (parts_.means.empty()) return {};
  const std::size_t num_bytes = std::size_t{parts_.shape.head_dim} * 2;
  const auto head = parts_.means.subspan(head_index(layer, kv_head) * format::kMeanVectors * num_bytes);
  return {head.first(num_bytes), head.subspan(num_bytes, num_bytes), head.subspan(2 * num_bytes, num_bytes)};
}

format::Status KvPool::check_layer(std::uint32_t layer) const {
  if (reader_ == nullptr) return {};
  const std::uint32_t num_heads = parts_.shape.num_kv_heads;
  // A layer's pages, sinks and means are each contiguous: heads in order, runs in order.
  const std::span<const Run> runs = std::span(runs_).subspan(
      first_run_[head_index(layer, 0)], first_run_[head_index(layer + 1, 0)] - first_run_[head_index(layer, 0)]);
  if (!runs.empty()) {
    const std::byte* end = runs.back().pages.data() + runs.back().pages.size();
    POLYKV_CHECK_STATUS(reader_->check({runs.front().pages.data(), end}));
  }
  if (parts_.num_sinks > 0) {
    const std::size_t layer_bytes = sink_keys(layer, 0).size() * 2 * num_heads;
    POLYKV_CHECK_STATUS(reader_->check(parts_.sinks.subspan(layer * layer_bytes, layer_bytes)));
  }
  if (!parts_.means.empty()) {
    const std::size_t layer_bytes = format::kMeanVectors * std::size_t{parts_.shape.head_dim} * 2 * num_heads;
    POLYKV_CHECK_STATUS(reader_->check(parts_.means.subspan(layer * layer_bytes, layer_bytes)));
  }
  return {};
}

}  // namespace polykv::core
