// Trellis codes of 1 to 5 bits, whose scales are bytes: what quantizer, dequantizer and kernels share. spec/codecs.md,
// "Trellis codes" and "Scales".
//
// The highest bit of a code is its trellis bit. With those of the three dimensions before (zeros before the first one)
// it chooses one of four subsets of an alphabet; the rest of the code is the rank of an integer in the subset.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <optional>

#include "format/shape.h"

namespace polykv::core {

// What the three trellis bits before can be: bit i is that of i + 1 dimensions ago.
inline constexpr unsigned kTrellisStates = 8;

// The subset, 0 to 3; bit i of `window` is the trellis bit of i dimensions ago.
constexpr unsigned trellis_subset(unsigned window) {
  return 2 * ((window ^ window >> 1 ^ window >> 3) & 1u) + (window >> 2 & 1u);
}

// The points of all four subsets that are nearest to u, by floor(2 u): boundaries between integers are halves. u is in
// units of the alphabet's integers; on a boundary it is the greater point.
struct NearestPoints {
  static constexpr int kLowest = -256, kHighest = 255;      // of floor(2 u), clamped; all points are within +-127
  std::array<std::uint64_t, kHighest - kLowest + 1> entry;  // byte i: integer of subset i; bits 40 + 4 i: its rank
};
const NearestPoints& nearest_points(unsigned bits);

// A scale byte is 3 bits of exponent over that of the run and 5 bits of fraction; 0 is a scale of zero.
inline float byte_to_scale(std::uint8_t byte, int exponent) {
  if (byte == 0) return 0.0f;
  return std::bit_cast<float>((static_cast<std::uint32_t>(exponent + 127) << 23) + (std::uint32_t{byte} << 18));
}

// Rounded to nearest, half up; what rounds to less than 1 becomes 1, if it is at least 2^(exponent - 1), else 0.
// `scale` is not negative, and not above the run's largest.
std::uint8_t scale_to_byte(float scale, int exponent);

// The exponent for the largest scale of a run: the smallest for which it fits, in the range that the layout allows; 0
// for a scale of 0. nullopt: there is none.
std::optional<std::int8_t> scale_exponent(float largest);

}  // namespace polykv::core
