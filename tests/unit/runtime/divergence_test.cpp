// KL divergence and its kin, against values computed by hand.
#include "cli/runtime/divergence.h"

#include <cmath>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

std::vector<float> logits_of(std::initializer_list<double> probabilities, double shift = 0.0) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

TEST_CASE("KL divergence of two known distributions, whatever constant their logits carry") {
  core::Workers workers(1);
  const std::vector<float> p = logits_of({0.5, 0.25, 0.25}, 7.0), q = logits_of({0.25, 0.5, 0.25}, -3.0);
  const std::vector<std::uint32_t> target = {1};
  DivergenceMeter meter;
  meter.add(p, q, target, workers);
  const Divergence result = meter.summary();
  CHECK(result.positions == 1);
  CHECK(result.kld_mean == Approx(0.25 * std::log(2.0)).epsilon(1e-6));  // 0.5 ln 2 - 0.25 ln 2
  CHECK(result.same_top == 0.0);
  CHECK(result.rms_dp == Approx(0.25).epsilon(1e-6));
  CHECK(result.ppl_ratio == Approx(0.5).epsilon(1e-6));  // the target became twice as likely
  CHECK(result.kld_stderr == 0.0);
}

TEST_CASE("A divergence of a millionth is measured, and equal outputs have none") {
  core::Workers workers(2);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  constexpr std::size_t kVocab = 49152;
  std::vector<float> p(kVocab), q(kVocab);
  double sum = 0.0, expected = 0.0;
  for (float& logit : p) logit = 3.0f * normal(random);
  for (std::size_t i = 0; i < kVocab; ++i) q[i] = p[i] + 0.0015f * normal(random);
  for (const float logit : p) sum += std::exp(static_cast<double>(logit));
  double q_sum = 0.0;
  for (const float logit : q) q_sum += std::exp(static_cast<double>(logit));
  for (std::size_t i = 0; i < kVocab; ++i) {
    const double log_p = static_cast<double>(p[i]) - std::log(sum), log_q = static_cast<double>(q[i]) - std::log(q_sum);
    expected += std::exp(log_p) * (log_p - log_q);
  }
  const std::vector<std::uint32_t> target = {5};
  DivergenceMeter meter, same;
  meter.add(p, q, target, workers);
  same.add(p, p, target, workers);
  REQUIRE(expected < 3e-6);
  // Logits near 10 in float are off by 5e-7 at most, which the terms carry times their own size of 0.0015.
  CHECK(meter.summary().kld_mean == Approx(expected).epsilon(0.002));
  CHECK(same.summary().kld_mean == 0.0);
  CHECK(same.summary().same_top == 1.0);
  CHECK(same.summary().ppl_ratio == 1.0);
}

TEST_CASE("Means, standard errors and quantiles are over positions, in any number of parts") {
  core::Workers workers(2);
  constexpr std::size_t kCount = 200;
  std::vector<float> p, q;
  std::vector<std::uint32_t> targets;
  double sum = 0.0, squares = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < kCount; ++i) {
    const double a = 0.5 + 0.002 * static_cast<double>(i);
    const auto reference = logits_of({0.5, 0.5}), compressed = logits_of({a, 1.0 - a});
    p.insert(p.end(), reference.begin(), reference.end());
    q.insert(q.end(), compressed.begin(), compressed.end());
    targets.push_back(0);
    const double kld = 0.5 * std::log(0.5 / a) + 0.5 * std::log(0.5 / (1.0 - a));
    sum += kld;
    squares += kld * kld;
    largest = std::max(largest, kld);
  }
  DivergenceMeter meter;
  const std::size_t half = kCount / 4;
  meter.add(std::span(p).first(half * 2), std::span(q).first(half * 2), std::span(targets).first(half), workers);
  meter.add(std::span(p).subspan(half * 2), std::span(q).subspan(half * 2), std::span(targets).subspan(half), workers);
  const Divergence result = meter.summary();
  const double mean = sum / kCount, variance = (squares - kCount * mean * mean) / (kCount - 1);
  CHECK(result.positions == kCount);
  CHECK(result.kld_mean == Approx(mean).epsilon(1e-5));
  CHECK(result.kld_stderr == Approx(std::sqrt(variance / kCount)).epsilon(1e-5));
  CHECK(result.kld_max == Approx(largest).epsilon(1e-5));
  // The 198th of 200 in ascending order: i = 197.
  const double a = 0.5 + 0.002 * 197;
  CHECK(result.kld_p99 == Approx(0.5 * std::log(0.5 / a) + 0.5 * std::log(0.5 / (1.0 - a))).epsilon(1e-5));
  CHECK(meter.positions()[197].kld == Approx(result.kld_p99));
}

TEST_CASE("Nothing scored is zero positions") { CHECK(DivergenceMeter().summary().positions == 0); }

}  // namespace
}  // namespace polykv::runtime
