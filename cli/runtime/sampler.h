// From logits to the next token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polykv::runtime {

struct SamplingOptions {
  float temperature = 0.0f;  // 0: the most likely token, the lowest id among equals
  std::uint32_t top_k = 0;   // 0: off
  float top_p = 1.0f;        // 1: off
  float min_p = 0.0f;        // 0: off; keep tokens at least min_p times as likely as the best one
  std::uint64_t seed = 0;
};

// Filters in the order top-k, temperature, top-p, min-p. One sampler per answer: equal seeds give equal answers.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options), state_(options.seed) {}
  std::uint32_t sample(std::span<const float> logits);

 private:
  double next_uniform();  // in [0, 1)

  SamplingOptions options_;
  std::uint64_t state_;
  struct Candidate {
    float logit;
    std::uint32_t id;
  };
  std::vector<Candidate> candidates_;
};

}  // namespace polykv::runtime
