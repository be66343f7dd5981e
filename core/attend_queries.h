// A step's query vectors in the forms that the kernels take, prepared once a layer. Part of attend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/kernels/attention.h"

namespace polykv::core {

// Query vectors as integers, for one kind of key codec.
class IntegerQueries {
 public:
  // Room for `num_vectors` vectors of each kv_head, a scale's sum over each `block_dim` dims.
  void resize(std::size_t num_kv_heads, std::size_t num_vectors, std::size_t head_dim, std::size_t block_dim);

  // Quantizes vector `v` of a kv_head; its values are finite.
  void assign(std::size_t kv_head, std::size_t v, std::span<const float> values);

  // `num_vectors` vectors from `first`; offsets [num_vectors].
  CodeQueries view(std::size_t kv_head, std::size_t first, std::size_t num_vectors, const float* offsets) const;

 private:
  std::size_t head_dim_ = 0, block_dim_ = 0, num_blocks_ = 0, stride_ = 0;
  std::vector<std::int16_t> codes_;  // [kv_head] ...
  std::vector<std::int8_t> planes_;
  std::vector<std::int32_t> biases_;
  std::vector<float> scales_;  // [kv_head][stride]
};

}  // namespace polykv::core
