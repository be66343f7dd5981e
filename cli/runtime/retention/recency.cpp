// Policies that look at no attention and no keys: where a position stands.
#include <cmath>

#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// The most recent positions, beside the sinks, which every pool keeps.
RetentionScores score_streaming_llm(const RetentionLayer& layer) {
  RetentionScores scores;
  for (std::uint32_t head = 0; head < layer.config.num_kv_heads; ++head)
    for (std::size_t t = 0; t < layer.num_tokens(); ++t) scores.positions.push_back(static_cast<float>(t));
  return scores;
}

// splitmix64 of layer, head and position: the same on every machine.
RetentionScores score_random(const RetentionLayer& layer) {
  RetentionScores scores;
  for (std::uint64_t head = 0; head < layer.config.num_kv_heads; ++head) {
    for (std::uint64_t t = 0; t < layer.num_tokens(); ++t) {
      std::uint64_t z = (std::uint64_t{layer.kv.layer} << 48) + (head << 40) + t + 0x9e3779b97f4a7c15u;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      scores.positions.push_back(static_cast<float>((z ^ (z >> 31)) >> 40));
    }
  }
  return scores;
}

}  // namespace polykv::runtime
