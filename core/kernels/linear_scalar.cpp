// The linear kernels in plain C++: they define the right answer, and run where no other table does.
#include <array>
#include <cmath>
#include <cstring>

#include "core/float16.h"
#include "core/kernels/linear.h"
#include "core/linear.h"

namespace polykv::core {

namespace {

std::uint16_t load_u16(const std::byte* at) {
  std::uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// One block of weights: value = scale * code + minimum.
struct Block {
  std::array<std::int16_t, 32> codes;
  float scale;
  float minimum;
};

void read_nibbles(const std::byte* bytes, int offset, Block& block) {
  for (std::size_t i = 0; i < 16; ++i) {
    const int byte = std::to_integer<int>(bytes[i]);
    block.codes[i] = static_cast<std::int16_t>((byte & 15) - offset);
    block.codes[16 + i] = static_cast<std::int16_t>((byte >> 4) - offset);
  }
}

void read_block(WeightType type, const std::byte* at, Block& block) {
  block.scale = float16_to_float(load_u16(at));
  block.minimum = 0.0f;
  if (type == WeightType::kQ8_0) {
    for (std::size_t i = 0; i < 32; ++i) block.codes[i] = std::to_integer<std::int8_t>(at[2 + i]);
  } else if (type == WeightType::kQ4_0) {
    read_nibbles(at + 2, 8, block);
  } else {
    block.minimum = float16_to_float(load_u16(at + 2));
    read_nibbles(at + 4, 0, block);
  }
}

std::int32_t dot(const std::int16_t* a, const std::int16_t* b) {
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < 32; ++i) sum += a[i] * b[i];
  return sum;
}

// sums[r] = row r of x times one weight row of a block format.
void multiply_blocks(const ActivationView& x, WeightType type, const std::byte* row, float* sums) {
  const std::size_t block_bytes = weight_row_bytes(type, 32);
  for (std::size_t r = 0; r < x.num_rows; ++r) sums[r] = 0.0f;
  Block block;
  for (std::size_t b = 0; b < x.num_blocks; ++b) {
    read_block(type, row + b * block_bytes, block);
    for (std::size_t r = 0; r < x.num_rows; ++r) {
      const std::size_t at = r * x.num_blocks + b;
      const std::int32_t sum = dot(x.codes + at * 32, block.codes.data());
      sums[r] = std::fma(static_cast<float>(sum), block.scale * x.scales[at], sums[r]);
      if (type == WeightType::kQ4_1) sums[r] = std::fma(block.minimum, x.block_sums[at], sums[r]);
    }
  }
}

float load_float(WeightType type, const std::byte* row, std::size_t i) {
  if (type == WeightType::kF16) return float16_to_float(load_u16(row + 2 * i));
  if (type == WeightType::kBF16) return bfloat16_to_float(load_u16(row + 2 * i));
  float value;
  std::memcpy(&value, row + 4 * i, sizeof value);
  return value;
}

// sums[r] = row r of x times one weight row of a float format: 32 lanes, lane i % 32, added up in order at the end.
void multiply_floats(const ActivationView& x, WeightType type, const std::byte* row, float* sums) {
  std::array<std::array<float, 32>, kMaxLinearRows> lanes{};
  std::array<float, 32> weights;
  for (std::size_t b = 0; b < x.num_blocks; ++b) {
    for (std::size_t i = 0; i < 32; ++i) {
      const std::size_t col = b * 32 + i;
      weights[i] = col < x.num_cols ? load_float(type, row, col) : 0.0f;
    }
    for (std::size_t r = 0; r < x.num_rows; ++r) {
      const float* values = x.values + (r * x.num_blocks + b) * 32;
      for (std::size_t i = 0; i < 32; ++i) lanes[r][i] += weights[i] * values[i];
    }
  }
  for (std::size_t r = 0; r < x.num_rows; ++r) {
    sums[r] = 0.0f;
    for (const float lane : lanes[r]) sums[r] += lane;
  }
}

std::size_t packed_bytes(std::size_t, std::size_t) { return 0; }

void pack(const ActivationView&, std::byte*) {}

void multiply(const ActivationView& x, const WeightMatrix& weights, std::size_t first_output, std::size_t num_outputs,
              float* out, std::size_t out_stride) {
  const std::size_t row_bytes = weight_row_bytes(weights.type, weights.num_cols);
  const bool blocks = weight_block_values(weights.type) > 1;
  std::array<float, kMaxLinearRows> sums;
  for (std::size_t o = 0; o < num_outputs; ++o) {
    const std::byte* row = weights.data + (first_output + o) * row_bytes;
    if (blocks) {
      multiply_blocks(x, weights.type, row, sums.data());
    } else {
      multiply_floats(x, weights.type, row, sums.data());
    }
    for (std::size_t r = 0; r < x.num_rows; ++r) out[r * out_stride + o] = sums[r];
  }
}

}  // namespace

const LinearKernels kLinearScalar{packed_bytes, pack, multiply};

}  // namespace polykv::core
