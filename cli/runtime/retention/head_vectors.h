// One head's keys, values or queries as numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/retention/policy.h"
#include "core/float16.h"

namespace polykv::runtime {

// Of `heads`, float16 [head][num_tokens][head_dim]: [num_tokens][head_dim].
inline std::vector<float> head_vectors(const RetentionLayer& layer, std::span<const std::uint16_t> heads,
                                       std::size_t head) {
  const std::size_t size = layer.num_tokens() * layer.config.head_dim;
  std::vector<float> vectors(size);
  for (std::size_t i = 0; i < size; ++i) vectors[i] = core::float16_to_float(heads[head * size + i]);
  return vectors;
}

inline double vector_norm(std::span<const float> x) {
  double sum = 0.0;
  for (const float value : x) sum += double{value} * double{value};
  return std::sqrt(sum);
}

// 0 to 2^24 - 1, each alike, by splitmix64 of layer, head and position: the same on every machine.
inline float uniform_number(std::uint64_t layer, std::uint64_t kv_head, std::uint64_t position) {
  std::uint64_t z = (layer << 48) + (kv_head << 40) + position + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<float>((z ^ (z >> 31)) >> 40);
}

// What float16 cannot hold becomes the largest that it can.
inline std::uint16_t finite_float16(float value) {
  constexpr float kLargest = 65504.0f;
  return core::float_to_float16(std::clamp(value, -kLargest, kLargest));
}

// score_head(kv_head, scores [num_tokens]), all heads on the workers.
template <typename ScoreHead>
RetentionScores score_heads(const RetentionLayer& layer, const ScoreHead& score_head) {
  RetentionScores scores;
  scores.positions.resize(layer.config.num_kv_heads * layer.num_tokens());
  layer.workers.run(layer.config.num_kv_heads, [&](std::size_t head, std::size_t) {
    score_head(head, std::span(scores.positions).subspan(head * layer.num_tokens(), layer.num_tokens()));
  });
  return scores;
}

}  // namespace polykv::runtime
