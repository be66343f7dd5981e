// Where the bytes of a pool go. Nothing is rounded, nothing left out: the parts sum to the file's size.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "format/reader.h"

namespace polykv::cli {

struct PoolPart {
  std::string_view name;  // a section's, or "superblock", "trailer"
  std::uint64_t bytes;    // with the padding after it
  bool is_kv;             // needed to restore keys and values
};

struct PoolMemory {
  std::vector<PoolPart> parts;  // in file order
  std::uint64_t tokens = 0;
  std::uint64_t pool_bytes = 0;
  std::uint64_t kv_bytes = 0;      // pages, sinks, means and layout, paddings and scales included; codebooks are pinned
  std::uint64_t f16_kv_bytes = 0;  // 2 bytes for each value of all positions, kept or not
};

// kLimitExceeded if a million agents without sharing would not fit 64 bits; kBadSectionTable if the parts do not add
// up.
format::Result<PoolMemory> measure_pool_memory(const format::PoolReader& reader);

}  // namespace polykv::cli
