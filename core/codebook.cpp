#include "core/codebook.h"

#include <array>
#include <bit>
#include <cstddef>

namespace polykv::core {
namespace {

// The positive half of 2 * kHalf ascending integers.
template <std::size_t kHalf>
constexpr std::array<std::int8_t, 2 * kHalf> both_signs(const std::int8_t (&positive)[kHalf]) {
  std::array<std::int8_t, 2 * kHalf> all{};
  for (std::size_t i = 0; i < kHalf; ++i) {
    all[kHalf + i] = positive[i];
    all[kHalf - 1 - i] = static_cast<std::int8_t>(-positive[i]);
  }
  return all;
}

// Every fourth integer of the alphabet is in the same subset.
template <std::size_t kHalf>
constexpr Codebook trellis(std::uint32_t step_bits, const std::int8_t (&positive)[kHalf]) {
  Codebook book{std::bit_cast<float>(step_bits), {}};
  const std::array<std::int8_t, 2 * kHalf> alphabet = both_signs(positive);
  for (std::size_t i = 0; i < alphabet.size(); ++i) book.values[i % 4 * (kHalf / 2) + i / 4] = alphabet[i];
  return book;
}

template <std::size_t kHalf>
constexpr Codebook lloyd_max(std::uint32_t step_bits, const std::int8_t (&positive)[kHalf]) {
  Codebook book{std::bit_cast<float>(step_bits), {}};
  const std::array<std::int8_t, 2 * kHalf> integers = both_signs(positive);
  for (std::size_t i = 0; i < integers.size(); ++i) book.values[i] = integers[i];
  return book;
}

constexpr Codebook uniform(unsigned bits) {
  Codebook book{std::bit_cast<float>(0x3d010204u), {}};  // 4 / 127
  for (int code = 0; code < (1 << bits); ++code)
    book.values[code] = static_cast<std::int8_t>(bits == 7 ? 2 * code - 127 : code < 128 ? code : code - 256);
  return book;
}

// Printed by tests/tools/make_codebooks.py; codec_codebook_test.cpp checks them.
constexpr std::array<Codebook, 8> kCodebooks{
    trellis(0x3c1830d6u, {41, 127}),
    trellis(0x3c6d2b50u, {13, 42, 74, 127}),
    trellis(0x3c9b5b9fu, {6, 16, 28, 40, 54, 70, 92, 127}),
    trellis(0x3cbb1aeau, {3, 7, 12, 16, 21, 26, 31, 37, 43, 49, 57, 65, 75, 87, 103, 127}),
    trellis(0x3cdb59ffu, {1,  3,  5,  7,  9,  11, 14, 16, 18, 20, 22, 24, 26, 29, 31,  34,
                          36, 39, 42, 45, 48, 51, 55, 59, 63, 68, 74, 80, 88, 97, 109, 127}),
    lloyd_max(0x3cf18260u, {1,  3,  6,  8,  10, 13, 15, 17, 20, 22, 24, 27, 30, 32, 35,  38,
                            40, 43, 46, 49, 53, 56, 60, 64, 68, 73, 78, 84, 91, 99, 110, 127}),
    uniform(7),
    uniform(8),
};

}  // namespace

const Codebook& codebook(unsigned bits) { return kCodebooks[bits - 1]; }

}  // namespace polykv::core
