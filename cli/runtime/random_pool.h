// A pool of any shape and codec with random pages in memory, to measure kernels on: they do the same work on any codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/codec.h"
#include "core/pool.h"
#include "format/layout.h"
#include "format/shape.h"

namespace polykv::runtime {

// Scales, means and float16 values are around 1. Every position is kept.
class RandomPool {
 public:
  RandomPool(const format::KvShape& shape, core::CodecPair codec);
  RandomPool(const RandomPool&) = delete;  // the view points into the object
  RandomPool& operator=(const RandomPool&) = delete;

  const core::KvPool& pool() const { return *pool_; }
  std::size_t page_bytes() const { return pages_.size(); }

 private:
  void add_scales(core::CodecPair codec, const std::vector<std::uint16_t>& halves);

  format::KvShape shape_;
  format::Layout layout_;
  std::vector<std::byte> pages_, sinks_, means_;
  std::optional<core::KvPool> pool_;
};

}  // namespace polykv::runtime
