// The pinned tables from code to real value. spec/codecs.md, "Codebooks" and "Trellis codes".
#pragma once

#include <cstdint>

namespace polykv::core {

// value = scale * step * an integer of `values`.
//   1 to 5 bits  trellis codes: values[subset << (bits - 1) | low bits of the code], the subset (0 to 3) from the
//                trellis bits of this dimension and the three before (core/trellis.h); the alphabet of 2^(bits + 1)
//                ascending integers is values[0 << ...], values[1 << ...], [2 << ...], [3 << ...], [0 << ... | 1], ...
//   6 bits       values[code]: 64 ascending integers, Lloyd-Max for N(0, 1), the largest centroid scaled to 127
//   7 bits       values[code] = 2 * code - 127: uniform, clipped at 4
//   8 bits       values[code] = code as two's complement: uniform, clipped at 4; 0x80 (-128) is never written
// Entries past these are zero.
struct Codebook {
  float step;
  std::int8_t values[256];
};

// The codebook of value codecs 1 to 8 and key codecs 1 to 7. `bits` is 1 to 8.
const Codebook& codebook(unsigned bits);

}  // namespace polykv::core
