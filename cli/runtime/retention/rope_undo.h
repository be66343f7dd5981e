// Keys and queries as they were before RoPE.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

class RopeUndo {
 public:
  explicit RopeUndo(const RetentionLayer& layer) : half_(layer.config.head_dim / 2) {
    const std::vector<double> frequencies = layer.config.rope.inverse_frequencies(layer.config.head_dim);
    cos_.resize(layer.num_tokens() * half_);
    sin_.resize(cos_.size());
    layer.workers.run(layer.num_tokens(), [&](std::size_t t, std::size_t) {
      for (std::size_t i = 0; i < half_; ++i) {
        const double angle = static_cast<double>(t) * frequencies[i];
        cos_[t * half_ + i] = static_cast<float>(std::cos(angle));
        sin_[t * half_ + i] = static_cast<float>(std::sin(angle));
      }
    });
  }

  // One head, [num_tokens][head_dim] in half-split order: each pair is turned back by its position's angle.
  void apply(std::span<float> vectors) const {
    for (std::size_t first = 0; first < cos_.size(); first += half_) {
      float* x = vectors.data() + 2 * first;
      for (std::size_t i = 0; i < half_; ++i) {
        const float low = x[i], high = x[half_ + i], c = cos_[first + i], s = sin_[first + i];
        x[i] = low * c + high * s;
        x[half_ + i] = high * c - low * s;
      }
    }
  }

 private:
  std::size_t half_;
  std::vector<float> cos_, sin_;  // [num_tokens][half]
};

}  // namespace polykv::runtime
