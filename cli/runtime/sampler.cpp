#include "cli/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace polykv::runtime {
namespace {

// The lowest id among the largest logits. Sixteen maxima side by side, which compilers turn into a few instructions:
// std::max_element takes 8 times as long.
std::uint32_t likeliest(std::span<const float> logits) {
  float lanes[16];
  std::fill_n(lanes, 16, -std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + 16 <= logits.size(); i += 16) {
    for (std::size_t lane = 0; lane < 16; ++lane) lanes[lane] = std::max(lanes[lane], logits[i + lane]);
  }
  for (; i < logits.size(); ++i) lanes[0] = std::max(lanes[0], logits[i]);
  const float largest = *std::max_element(lanes, lanes + 16);
  const auto at = std::find(logits.begin(), logits.end(), largest);
  return at == logits.end() ? 0 : static_cast<std::uint32_t>(at - logits.begin());  // end: none is a number
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options, std::size_t vocab_size) : options_(options), state_(options.seed) {
  if (options.temperature <= 0.0f) return;
  candidates_.reserve(vocab_size);
  weights_.reserve(vocab_size);
}

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
  if (options_.temperature <= 0.0f || options_.top_k == 1) return likeliest(logits);
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) candidates_.push_back({logits[i], static_cast<std::uint32_t>(i)});
  best_logit_ = logits[likeliest(logits)];
  weights_.clear();

  double total = 0.0;
  if (options_.top_k > 0 && options_.top_k < candidates_.size()) {
    sort_first(options_.top_k);
    candidates_.resize(options_.top_k);
    for (const double weight : weights_) total += weight;
  } else {
    for (const Candidate& candidate : candidates_) total += weight_of(candidate);
  }
  // Keep the shortest head that holds top_p of the mass, then those at least min_p as likely as the best (weight 1).
  std::size_t kept = candidates_.size();
  double mass = total;
  if (options_.top_p < 1.0f || options_.min_p > 0.0f) {
    mass = 0.0;
    for (kept = 0; kept < candidates_.size(); ++kept) {
      const double weight = sorted_weight(kept);
      if (kept > 0 && (mass >= options_.top_p * total || weight < options_.min_p)) break;
      mass += weight;
    }
  }
  double at = next_uniform() * mass;
  for (std::size_t i = 0; i < kept; ++i) {
    at -= sorted_weight(i);
    if (at < 0.0) return candidates_[i].id;
  }
  return candidates_[kept - 1].id;
}

double Sampler::weight_of(const Candidate& candidate) const {
  return std::exp((static_cast<double>(candidate.logit) - best_logit_) / options_.temperature);
}

// The weight of the i-th likeliest candidate. Sorts as far as needed: nearly always a draw ends in the first few
// dozens.
double Sampler::sorted_weight(std::size_t i) {
  if (i >= weights_.size()) sort_first(std::min(candidates_.size(), std::max<std::size_t>(64, 8 * weights_.size())));
  return weights_[i];
}

void Sampler::sort_first(std::size_t count) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(weights_.size());
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
  if (end != candidates_.end()) std::nth_element(begin, end, candidates_.end(), likelier);
  std::sort(begin, end, likelier);
  for (std::size_t i = weights_.size(); i < count; ++i) weights_.push_back(weight_of(candidates_[i]));
}

}  // namespace polykv::runtime
