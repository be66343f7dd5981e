#include "cli/runtime/divergence.h"

#include <algorithm>
#include <cmath>

namespace polykv::runtime {
namespace {

// ln of the sum of exp(logits), and where the largest is. exp in float, which the compiler's library does fast; its
// error of 1e-7 is as often above as below, and 50,000 terms are summed in double.
struct Normalizer {
  std::size_t top;
  double log_sum;
};

Normalizer normalizer(std::span<const float> logits) {
  const auto top = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  double sum = 0.0;
  for (const float logit : logits) sum += static_cast<double>(std::exp(logit - logits[top]));
  return {top, static_cast<double>(logits[top]) + std::log(sum)};
}

DivergenceMeter::Position compare(std::span<const float> reference, std::span<const float> compressed,
                                  std::uint32_t target) {
  const Normalizer p = normalizer(reference), q = normalizer(compressed);
  // KL = sum of p (ln p - ln q) = sum of p (logit difference) - difference of the normalizers. With it the identity
  // sum of q = sum of p is used: p (r - 1 - ln r), r = q / p, has no term below zero, so that a small result is not the
  // difference of large ones.
  double kld = 0.0;
  const double shift = q.log_sum - p.log_sum;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const float log_p = static_cast<float>(static_cast<double>(reference[i]) - p.log_sum);
    const auto log_r =
        static_cast<float>(static_cast<double>(compressed[i]) - static_cast<double>(reference[i]) - shift);
    kld += static_cast<double>(std::exp(log_p)) * static_cast<double>(std::expm1(log_r) - log_r);
  }
  const double log_p = static_cast<double>(reference[target]) - p.log_sum;
  const double log_q = static_cast<double>(compressed[target]) - q.log_sum;
  return {kld, p.top == q.top, std::exp(log_q) - std::exp(log_p), log_p - log_q};
}

struct Mean {
  double mean = 0.0, standard_error = 0.0;
};

template <typename Value>
Mean mean_of(std::span<const DivergenceMeter::Position> positions, const Value& value) {
  const auto count = static_cast<double>(positions.size());
  Mean result;
  for (const auto& position : positions) result.mean += value(position);
  result.mean /= count;
  if (positions.size() < 2) return result;
  double squares = 0.0;
  for (const auto& position : positions) squares += (value(position) - result.mean) * (value(position) - result.mean);
  result.standard_error = std::sqrt(squares / (count - 1.0) / count);
  return result;
}

}  // namespace

double log_sum_exp(std::span<const float> logits) { return normalizer(logits).log_sum; }

void DivergenceMeter::add(std::span<const float> reference, std::span<const float> compressed,
                          std::span<const std::uint32_t> targets, core::Workers& workers) {
  if (targets.empty()) return;
  const std::size_t first = positions_.size(), vocab_size = reference.size() / targets.size();
  positions_.resize(first + targets.size());
  workers.run(targets.size(), [&](std::size_t i, std::size_t) {
    positions_[first + i] = compare(reference.subspan(i * vocab_size, vocab_size),
                                    compressed.subspan(i * vocab_size, vocab_size), targets[i]);
  });
}

Divergence DivergenceMeter::summary() const {
  Divergence result;
  if (positions_.empty()) return result;
  const std::span<const Position> all = positions_;
  result.positions = static_cast<std::uint32_t>(all.size());
  const Mean kld = mean_of(all, [](const Position& p) { return p.kld; });
  const Mean same = mean_of(all, [](const Position& p) { return p.same_top ? 1.0 : 0.0; });
  const Mean log_ratio = mean_of(all, [](const Position& p) { return p.log_ratio; });
  result.kld_mean = kld.mean;
  result.kld_stderr = kld.standard_error;
  result.same_top = same.mean;
  result.same_top_stderr = same.standard_error;
  result.rms_dp =
      std::sqrt(mean_of(all, [](const Position& p) { return p.probability_change * p.probability_change; }).mean);
  result.ppl_ratio = std::exp(log_ratio.mean);
  result.ppl_ratio_stderr = result.ppl_ratio * log_ratio.standard_error;
  std::vector<double> sorted;
  for (const Position& position : all) sorted.push_back(position.kld);
  std::sort(sorted.begin(), sorted.end());
  result.kld_max = sorted.back();
  result.kld_p99 = sorted[(sorted.size() * 99 + 99) / 100 - 1];
  return result;
}

}  // namespace polykv::runtime
