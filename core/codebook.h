// The pinned tables from code to real value. spec/codecs.md, "Codebooks".
#pragma once

#include <cstdint>

namespace polykv::core {

// value = scale * step * values[code], the code taken as the unsigned byte that the page holds.
//   1 to 6 bits  2^bits ascending integers: Lloyd-Max for N(0, 1), the largest centroid scaled to 127
//   7 bits       values[code] = 2 * code - 127: uniform, clipped at 4
//   8 bits       values[code] = code as two's complement: uniform, clipped at 4; 0x80 (-128) is never written
// Entries past 2^bits are zero.
struct Codebook {
  float step;
  std::int8_t values[256];
};

// The codebook of value codecs 1 to 8 and key codecs 1 to 7. `bits` is 1 to 8.
const Codebook& codebook(unsigned bits);

}  // namespace polykv::core
