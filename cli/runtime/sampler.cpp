#include "cli/runtime/sampler.h"

#include <algorithm>
#include <cmath>

namespace polykv::runtime {

// SplitMix64 (Steele, Lea, Flood 2014): small, seedable with any number, the same everywhere.
double Sampler::next_uniform() {
  state_ += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

std::uint32_t Sampler::sample(std::span<const float> logits) {
  if (options_.temperature <= 0.0f || options_.top_k == 1) {
    return static_cast<std::uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) candidates_.push_back({logits[i], static_cast<std::uint32_t>(i)});
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (options_.top_k > 0 && options_.top_k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(), likelier);
    candidates_.resize(options_.top_k);
  }
  std::sort(candidates_.begin(), candidates_.end(), likelier);

  std::vector<double> weights;
  double total = 0.0;
  for (const Candidate& candidate : candidates_) {
    weights.push_back(
        std::exp((static_cast<double>(candidate.logit) - candidates_.front().logit) / options_.temperature));
    total += weights.back();
  }
  // Keep the shortest head that holds top_p of the mass, then those at least min_p as likely as the best (weight 1).
  std::size_t kept = 0;
  double mass = 0.0;
  while (kept < weights.size() && (kept == 0 || (mass < options_.top_p * total && weights[kept] >= options_.min_p))) {
    mass += weights[kept++];
  }
  double at = next_uniform() * mass;
  for (std::size_t i = 0; i < kept; ++i) {
    at -= weights[i];
    if (at < 0.0) return candidates_[i].id;
  }
  return candidates_[kept - 1].id;
}

}  // namespace polykv::runtime
