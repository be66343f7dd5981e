// A weight matrix as it lies in a mapped model file: used in place, never copied, no alignment assumed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace polykv::core {

// ggml's block formats, 32 values a block; low nibbles are values 0-15, high ones 16-31:
//   q8_0  f16 scale, 32 int8               value = scale * code
//   q4_0  f16 scale, 16 bytes              value = scale * (nibble - 8)
//   q4_1  f16 scale, f16 minimum, 16 bytes value = scale * nibble + minimum
enum class WeightType : std::uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1 };

struct WeightMatrix {
  const std::byte* data = nullptr;  // [num_rows][weight_row_bytes]; null: absent (a bias that the model does not have)
  WeightType type = WeightType::kF32;
  std::size_t num_rows = 0;  // outputs; 1 for a vector
  std::size_t num_cols = 0;  // inputs; a multiple of 32 for the block formats

  explicit operator bool() const { return data != nullptr; }
};

const char* weight_type_name(WeightType type);  // "F32", "Q4_1", ...

// Values a block holds: 1 for float types, 32 for the block formats.
std::size_t weight_block_values(WeightType type);

// Bytes of one row of `num_cols` values.
std::size_t weight_row_bytes(WeightType type, std::size_t num_cols);

// out[num_cols] = the values of one row, exact to the format's definition in float arithmetic.
void dequantize_row(const WeightMatrix& matrix, std::size_t row, std::span<float> out);

// The first row, all a vector has; empty for an absent matrix.
std::vector<float> dequantize_vector(const WeightMatrix& vector);

}  // namespace polykv::core
