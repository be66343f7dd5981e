#include "core/attend_queries.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace polykv::core {
namespace {

constexpr float kMaxCode = 16256.0f;  // 127 * 128: the high plane stays within int8

// Below this the reciprocal of a scale would not be a float; scores are then 0 but for rounding.
constexpr float kLeastMagnitude = 1e-30f;

// Adding it rounds to nearest even, and leaves the integer in the low bits: one addition that every compiler
// vectorizes.
constexpr float kRound = 0x1.8p+23f;

}  // namespace

void IntegerQueries::resize(std::size_t num_vectors, std::size_t head_dim, std::size_t block_dim) {
  head_dim_ = head_dim;
  block_dim_ = block_dim;
  num_blocks_ = (head_dim + block_dim - 1) / block_dim;
  codes_.resize(num_vectors * head_dim);
  high_.resize(num_vectors * head_dim);
  low_.resize(num_vectors * head_dim);
  block_sums_.resize(num_vectors * num_blocks_);
  scales_.resize(num_vectors);
}

void IntegerQueries::assign(std::size_t v, std::span<const float> values) {
  float top = 0.0f;
  for (const float value : values) top = std::max(top, std::fabs(value));
  const bool is_zero = top < kLeastMagnitude;
  const float inverse = is_zero ? 0.0f : kMaxCode / top;
  scales_[v] = is_zero ? 0.0f : top / kMaxCode;
  std::int16_t* codes = codes_.data() + v * head_dim_;
  std::int8_t* high = high_.data() + v * head_dim_;
  std::int8_t* low = low_.data() + v * head_dim_;
  for (std::size_t d = 0; d < head_dim_; ++d) {
    const std::int32_t code =
        std::bit_cast<std::int32_t>(values[d] * inverse + kRound) - std::bit_cast<std::int32_t>(kRound);
    codes[d] = static_cast<std::int16_t>(code);
    high[d] = static_cast<std::int8_t>(code >> 7);
    low[d] = static_cast<std::int8_t>(code & 127);
  }
  for (std::size_t block = 0; block < num_blocks_; ++block) {
    std::int32_t sum = 0;
    for (std::size_t d = block * block_dim_; d < std::min(head_dim_, (block + 1) * block_dim_); ++d) sum += codes[d];
    block_sums_[v * num_blocks_ + block] = sum;
  }
}

CodeQueries IntegerQueries::view(std::size_t first, std::size_t num_vectors, const float* offsets) const {
  return {codes_.data() + first * head_dim_,
          high_.data() + first * head_dim_,
          low_.data() + first * head_dim_,
          block_sums_.data() + first * num_blocks_,
          scales_.data() + first,
          offsets,
          num_vectors};
}

}  // namespace polykv::core
