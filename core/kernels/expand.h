// Tiles of codes to the integers of their codebook, for the attention kernels of one instruction set each: what is done
// once to a page for all queries. core/kernels/attention_scalar.cpp says it in C++.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::core {

// Tiles of one page, one after the other, as in attention.h.
struct CodeTiles {
  const std::byte* codes;
  std::size_t num_tiles;   // 1 to 4
  std::size_t num_groups;  // of 64 codes, in a tile
  unsigned bits;           // 1 to 8
  bool is_key;             // the order of dimensions in the groups; trellis codes depend on it
};

#if defined(__x86_64__)
// out [num_tiles][num_groups][64], 64-byte aligned; each byte is xored with `flip`.
void expand_avx512(const CodeTiles& tiles, std::uint8_t flip, std::int8_t* out);

// `room` [num_tiles][num_groups][64], 32-byte aligned, is where the result is, unless 8-bit codes can be read in place.
const std::int8_t* expand_avx2(const CodeTiles& tiles, std::int8_t* room);
#endif

}  // namespace polykv::core
