// A pool as numbers: what one (layer, kv_head) of a validated PoolReader means.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/codec.h"
#include "format/reader.h"
#include "format/status.h"

namespace polykv::core {

// A view: the reader must outlive it. Nothing is copied or dequantized; sinks and means are small and used in place too.
class KvPool {
 public:
  struct Run {
    CodecPair codec;
    std::span<const format::PositionRange> positions;  // ascending; same order as the slots of the pages
    std::uint32_t num_positions;
    std::span<const std::byte> pages;                   // format::run_bytes
  };

  explicit KvPool(const format::PoolReader& reader);

  const format::KvShape& shape() const { return reader_->shape(); }
  std::uint32_t first_position() const;  // 0 for a base pool
  std::uint32_t num_sinks() const;       // 0 for a pool with a parent
  std::span<const Run> runs(std::uint32_t layer, std::uint32_t kv_head) const;
  std::span<const std::byte> sink_keys(std::uint32_t layer, std::uint32_t kv_head) const;    // float16 [num_sinks][head_dim]
  std::span<const std::byte> sink_values(std::uint32_t layer, std::uint32_t kv_head) const;
  std::span<const std::byte> mean(std::uint32_t layer, std::uint32_t kv_head) const;         // float16 [head_dim], may be empty

  // Checks every chunk that holds this layer's pages, sinks and means, once per process.
  format::Status check_layer(std::uint32_t layer) const;

 private:
  const format::PoolReader* reader_;
  std::vector<Run> runs_;               // [layer][kv_head] ranges in order
  std::vector<std::uint32_t> first_run_;  // [num_layers * num_kv_heads + 1]
};

}  // namespace polykv::core
