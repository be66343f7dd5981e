// From logits to the next token.
#pragma once

#include <cstddef>
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
  // Room for `vocab_size` logits: with as many or fewer, sample() allocates nothing.
  explicit Sampler(const SamplingOptions& options, std::size_t vocab_size = 0);
  std::uint32_t sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    std::uint32_t id;
  };

  double next_uniform();  // in [0, 1)
  double weight_of(const Candidate& candidate) const;
  double sorted_weight(std::size_t i);
  void sort_first(std::size_t count);

  SamplingOptions options_;
  std::uint64_t state_;
  double best_logit_ = 0.0;
  std::vector<Candidate> candidates_;  // the first weights_.size() sorted, the likeliest first
  std::vector<double> weights_;        // not normalized: 1 for the likeliest
};

}  // namespace polykv::runtime
