// A pool as numbers: what one (layer, kv_head) of a validated PoolReader means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/codec.h"
#include "format/layout.h"
#include "format/shape.h"
#include "format/status.h"

namespace polykv::format {
class PoolReader;
}

namespace polykv::core {

// A view: the reader must outlive it. Nothing is copied or dequantized; sinks and means are small and used in place
// too.
class KvPool {
 public:
  struct Run {
    CodecPair codec;
    format::ScaleExponents exponents;
    std::span<const format::PositionRange> positions;  // ascending; same order as the slots of the pages
    std::span<const std::uint32_t> first_slots;        // the slot of each range's first position
    std::uint32_t num_positions;
    std::span<const std::byte> pages;  // format::run_bytes

    // How many positions of the run are below `position`: a range of positions [a, b) is slots [slots_below(a),
    // slots_below(b)).
    std::uint32_t slots_below(std::uint32_t position) const;
  };

  // What a pool is made of, where it is not a file (yet): the probes of `build`, tests. The layout is placed; it and
  // the bytes must outlive the view. Nothing is checked.
  struct Parts {
    format::KvShape shape;
    std::uint32_t first_position = 0;
    std::uint32_t num_sinks = 0;
    const format::Layout* layout = nullptr;
    std::span<const std::byte> pages, sinks, means;  // as in format/reader.h
  };

  explicit KvPool(const format::PoolReader& reader);
  explicit KvPool(const Parts& parts);
  KvPool(const KvPool&) = delete;  // runs point into the object
  KvPool& operator=(const KvPool&) = delete;
  KvPool(KvPool&&) = default;
  KvPool& operator=(KvPool&&) = default;

  const Parts& parts() const { return parts_; }  // for views of the same pool with another layout
  const format::KvShape& shape() const { return parts_.shape; }
  std::uint32_t first_position() const { return parts_.first_position; }  // 0 for a base pool
  std::uint32_t end_position() const { return parts_.first_position + parts_.shape.num_tokens; }
  std::uint32_t num_sinks() const { return parts_.num_sinks; }  // 0 for a pool with a parent
  std::span<const Run> runs(std::uint32_t layer, std::uint32_t kv_head) const;
  std::span<const std::byte> sink_keys(std::uint32_t layer,
                                       std::uint32_t kv_head) const;  // float16 [num_sinks][head_dim]
  std::span<const std::byte> sink_values(std::uint32_t layer, std::uint32_t kv_head) const;
  // float16 [head_dim] each; all empty, if the pool has none.
  struct Transform {
    std::span<const std::byte> mean, key_balance, value_balance;
  };
  Transform transform(std::uint32_t layer, std::uint32_t kv_head) const;
  std::span<const std::byte> mean(std::uint32_t layer, std::uint32_t kv_head) const {
    return transform(layer, kv_head).mean;
  }

  // Checks every chunk that holds this layer's pages, sinks and means, once per process.
  format::Status check_layer(std::uint32_t layer) const;

 private:
  std::size_t head_index(std::uint32_t layer, std::uint32_t kv_head) const {
    return std::size_t{layer} * parts_.shape.num_kv_heads + kv_head;
  }

  const format::PoolReader* reader_ = nullptr;  // null: nothing to check
  Parts parts_;
  std::vector<std::vector<std::uint32_t>> first_slots_;  // [position set][range]
  std::vector<Run> runs_;                                // [layer][kv_head] ranges in order
  std::vector<std::size_t> first_run_;                   // [num_layers * num_kv_heads + 1]
};

}  // namespace polykv::core
