// Where a code lies in a tile of 16 positions: groups of 64 codes in the order that int8 dot products read them, split
// into planes of 8, 4, 2 and 1 bits. spec/codecs.md, "Tiles". Offsets of whole tiles: format/page_layout.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/page_layout.h"

namespace polykv::core {

inline constexpr std::size_t kGroupCodes = 64;

// Index of a code among the codes of a key tile, [dim / 4][16 positions][4 dims]; groups: head_dim / 4.
constexpr std::size_t key_slot(std::size_t position, std::size_t dim) {
  return dim / 4 * kGroupCodes + position * 4 + dim % 4;
}

// Index of a code among the codes of a value tile, [position / 4][16 dims][4 positions]; groups: padded_dim / 4.
constexpr std::size_t value_slot(std::size_t position, std::size_t dim, std::size_t padded_dim) {
  return (position / 4 * (padded_dim / 16) + dim / 16) * kGroupCodes + dim % 16 * 4 + position % 4;
}

// codes [num_groups][64], each below 2^codec, codec 1 to 8 -> tile, num_groups * 8 * codec bytes, every byte written.
void pack_codes(format::CodecId codec, const std::uint8_t* codes, std::size_t num_groups, std::byte* tile);

// The inverse, for any bytes.
void unpack_codes(format::CodecId codec, const std::byte* tile, std::size_t num_groups, std::uint8_t* codes);

}  // namespace polykv::core
