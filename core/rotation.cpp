#include "core/rotation.h"

#include <bit>
#include <cstring>

namespace polykv::core {
namespace {

// Output `index` of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) seeded with 0; the sign is its highest bit.
constexpr bool is_negative(std::uint64_t index) {
  std::uint64_t z = (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return ((z ^ (z >> 31)) >> 63) != 0;
}

constexpr std::array<float, format::kMaxHeadDim> make_signs() {
  std::array<float, format::kMaxHeadDim> signs{};
  for (std::size_t i = 0; i < signs.size(); ++i) signs[i] = is_negative(i) ? -1.0f : 1.0f;
  return signs;
}

}  // namespace

constexpr std::array<float, format::kMaxHeadDim> kRotationSigns = make_signs();

namespace {

// 1 / sqrt(block): a power of two, or one times the float nearest to sqrt(1/2).
constexpr float rotation_factor(std::size_t block) {
  float factor = 1.0f;
  for (; block >= 4; block /= 4) factor *= 0.5f;
  return block == 2 ? factor * std::bit_cast<float>(0x3f3504f3u) : factor;
}

// Four floats; gcc and clang need no hint for the instruction set. Loads and stores assume no alignment.
using Float4 = float __attribute__((vector_size(16)));

Float4 load4(const float* from) {
  Float4 out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

void store4(float* to, Float4 value) { std::memcpy(to, &value, sizeof value); }

// Butterflies of spans 1 and 2 between neighbouring floats.
void first_two_stages(float* values, std::size_t size) {
  for (std::size_t i = 0; i < size; i += 4) {
    float* x = values + i;
    const float a = x[0] + x[1], b = x[0] - x[1], c = x[2] + x[3], d = x[2] - x[3];
    store4(x, Float4{a, b, a, b} + Float4{c, d, -c, -d});  // adding -c is subtracting c, to the bit
  }
}

// Butterflies of spans `span` (4 or more), 2 span, 4 span ... below `end`, two of them a pass while there are two.
void later_stages(float* values, std::size_t size, std::size_t span, std::size_t end) {
  for (; span * 2 < end; span *= 4) {
    for (std::size_t i = 0; i < size; i += 4 * span) {
      for (float* x = values + i; x < values + i + span; x += 4) {
        const Float4 x0 = load4(x), x1 = load4(x + span), x2 = load4(x + 2 * span), x3 = load4(x + 3 * span);
        const Float4 a = x0 + x1, b = x0 - x1, c = x2 + x3, d = x2 - x3;
        store4(x, a + c);
        store4(x + span, b + d);
        store4(x + 2 * span, a - c);
        store4(x + 3 * span, b - d);
      }
    }
  }
  if (span >= end) return;
  for (std::size_t i = 0; i < size; i += 2 * span) {
    for (float* x = values + i; x < values + i + span; x += 4) {
      const Float4 a = load4(x), b = load4(x + span);
      store4(x, a + b);
      store4(x + span, a - b);
    }
  }
}

// On rows of kWidth floats, in blocks of `block` rows: each row is one dimension of kWidth vectors.
template <std::size_t kWidth>
void walsh_hadamard(std::span<float> rows, std::size_t block) {
  if constexpr (kWidth == 1) first_two_stages(rows.data(), rows.size());
  later_stages(rows.data(), rows.size(), kWidth == 1 ? 4 : kWidth, block * kWidth);
}

template <std::size_t kWidth>
void multiply_signs(float* rows, std::size_t num_rows, float factor) {
  for (std::size_t i = 0; i < num_rows; ++i)
    for (std::size_t j = 0; j < kWidth; ++j)
      rows[i * kWidth + j] *= factor * kRotationSigns[i];  // factor * +-1 is exact
}

template <std::size_t kWidth>
void rotate_rows(std::span<float> rows) {
  const std::size_t num_rows = rows.size() / kWidth, block = rotation_block(num_rows);
  multiply_signs<kWidth>(rows.data(), num_rows, 1.0f);
  walsh_hadamard<kWidth>(rows, block);
  const float factor = rotation_factor(block);
  for (float& value : rows) value *= factor;
}

template <std::size_t kWidth>
void unrotate_rows(std::span<float> rows) {
  const std::size_t num_rows = rows.size() / kWidth, block = rotation_block(num_rows);
  walsh_hadamard<kWidth>(rows, block);
  multiply_signs<kWidth>(rows.data(), num_rows, rotation_factor(block));
}

}  // namespace

void rotate(std::span<float> vector) { rotate_rows<1>(vector); }
void unrotate(std::span<float> vector) { unrotate_rows<1>(vector); }
void rotate_16(std::span<float> vectors) { rotate_rows<16>(vectors); }
void unrotate_16(std::span<float> vectors) { unrotate_rows<16>(vectors); }

}  // namespace polykv::core
