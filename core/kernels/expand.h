// What the expanding of codes (expand_avx2.h, expand_avx512.h) is given.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::core {

// Tiles of one page, one after the other, as in attention.h.
struct CodeTiles {
  const std::byte* codes;
  std::size_t num_tiles;   // 1 to kMaxTiles
  std::size_t num_groups;  // of 64 codes, in a tile: 2 to kMaxGroups
  unsigned bits;           // 1 to 8
  std::size_t ahead = 0;
};

inline constexpr std::size_t kMaxTiles = 4, kMaxGroups = 128, kGroupCodes = 64;

}  // namespace polykv::core
