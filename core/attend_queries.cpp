#include "core/attend_queries.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "format/shape.h"

namespace polykv::core {
namespace {

constexpr float kMaxCode = 16256.0f;  // 127 * 128: the high plane stays within int8

// Below this the reciprocal of a scale would not be a float; scores are then 0 but for rounding.
constexpr float kLeastMagnitude = 1e-30f;

// Adding it rounds to nearest even, and leaves the integer in the low bits: one addition that every compiler
// vectorizes.
constexpr float kRound = 0x1.8p+23f;

}  // namespace

void IntegerQueries::resize(std::size_t num_kv_heads, std::size_t num_vectors, std::size_t head_dim,
                            std::size_t block_dim) {
  head_dim_ = head_dim;
  block_dim_ = block_dim;
  num_blocks_ = (head_dim + block_dim - 1) / block_dim;
  // An odd number of cache lines of eight vectors: an even one would send all dims to a few places of the cache.
  stride_ = ((num_vectors + 7) / 8 | 1) * 8;
  codes_.resize(num_kv_heads * head_dim * stride_);
  planes_.resize(num_kv_heads * head_dim * stride_ * 2);
  biases_.resize(num_kv_heads * num_blocks_ * stride_);
  scales_.resize(num_kv_heads * stride_);
}

void IntegerQueries::assign(std::size_t kv_head, std::size_t v, std::span<const float> values) {
  float top = 0.0f;
  for (const float value : values) top = std::max(top, std::fabs(value));
  const bool is_zero = top < kLeastMagnitude;
  const float inverse = is_zero ? 0.0f : kMaxCode / top;
  scales_[kv_head * stride_ + v] = is_zero ? 0.0f : top / kMaxCode;
  std::int16_t codes[format::kMaxHeadDim];
  std::int8_t high[format::kMaxHeadDim], low[format::kMaxHeadDim];
  for (std::size_t d = 0; d < head_dim_; ++d) {
    const std::int32_t code =
        std::bit_cast<std::int32_t>(values[d] * inverse + kRound) - std::bit_cast<std::int32_t>(kRound);
    codes[d] = static_cast<std::int16_t>(code);
    high[d] = static_cast<std::int8_t>(code >> 7);
    low[d] = static_cast<std::int8_t>(code & 127);
  }
  for (std::size_t d = 0; d < head_dim_; d += 4) {
    const std::size_t four = (kv_head * head_dim_ + d) / 4 * stride_ + v;
    const std::int16_t ordered[4] = {codes[d], codes[d + 2], codes[d + 1], codes[d + 3]};
    std::memcpy(&codes_[four * 4], ordered, sizeof ordered);
    std::memcpy(&planes_[four * 8], high + d, 4);
    std::memcpy(&planes_[four * 8 + 4], low + d, 4);
  }
  for (std::size_t block = 0; block < num_blocks_; ++block) {
    std::int32_t sum = 0;
    for (std::size_t d = block * block_dim_; d < std::min(head_dim_, (block + 1) * block_dim_); ++d) sum += codes[d];
    biases_[(kv_head * num_blocks_ + block) * stride_ + v] = -128 * sum;
  }
}

CodeQueries IntegerQueries::view(std::size_t kv_head, std::size_t first, std::size_t num_vectors,
                                 const float* offsets) const {
  const std::size_t four = kv_head * (head_dim_ / 4) * stride_ + first;
  return {codes_.data() + four * 4,
          planes_.data() + four * 8,
          biases_.data() + kv_head * num_blocks_ * stride_ + first,
          scales_.data() + kv_head * stride_ + first,
          offsets,
          num_vectors,
          stride_};
}

}  // namespace polykv::core
