#include "core/codebook.h"

#include <array>
#include <bit>
#include <cstddef>

namespace polykv::core {
namespace {

template <std::size_t kHalf>
constexpr Codebook symmetric(std::uint32_t step_bits, const std::int8_t (&positive)[kHalf]) {
  Codebook book{std::bit_cast<float>(step_bits), {}};
  for (std::size_t i = 0; i < kHalf; ++i) {
    book.values[kHalf + i] = positive[i];
    book.values[kHalf - 1 - i] = static_cast<std::int8_t>(-positive[i]);
  }
  return book;
}

constexpr Codebook uniform(unsigned bits) {
  Codebook book{std::bit_cast<float>(0x3d010204u), {}};  // 4 / 127
  for (int code = 0; code < (1 << bits); ++code)
    book.values[code] = static_cast<std::int8_t>(bits == 7 ? 2 * code - 127 : code < 128 ? code : code - 256);
  return book;
}

// Printed by tests/tools/make_codebooks.py; codec_codebook_test.cpp recomputes them.
constexpr std::array<Codebook, 8> kCodebooks{
    symmetric(0x3bcddde5u, {127}),
    symmetric(0x3c42db13u, {38, 127}),
    symmetric(0x3c8acf19u, {14, 45, 79, 127}),
    symmetric(0x3cb04346u, {6, 18, 31, 44, 58, 75, 96, 127}),
    symmetric(0x3cd25480u, {3, 8, 13, 18, 24, 29, 35, 41, 47, 54, 61, 70, 79, 90, 105, 127}),
    symmetric(0x3cf18260u, {1,  3,  6,  8,  10, 13, 15, 17, 20, 22, 24, 27, 30, 32, 35,  38,
                            40, 43, 46, 49, 53, 56, 60, 64, 68, 73, 78, 84, 91, 99, 110, 127}),
    uniform(7),
    uniform(8),
};

}  // namespace

const Codebook& codebook(unsigned bits) { return kCodebooks[bits - 1]; }

}  // namespace polykv::core
