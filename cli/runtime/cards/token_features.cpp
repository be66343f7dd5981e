#include "cli/runtime/cards/token_features.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "cli/runtime/cards/card_rows.h"
#include "cli/runtime/divergence.h"
#include "cli/runtime/prompt.h"
#include "core/tail.h"

namespace polykv::runtime {
namespace {

using format::Result;

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr double kLeastWeight = 1e-9;  // added before a logarithm is taken

double& feature(TokenFeatures& features, Feature which) { return features[static_cast<std::size_t>(which)]; }

void set_frequency(const TurnTokens& turn, std::vector<TokenFeatures>& features) {
  std::unordered_map<std::uint32_t, std::size_t> counts;
  for (const auto tokens : {turn.before, turn.tokens})
    for (const std::uint32_t token : tokens) ++counts[token];
  const auto all = static_cast<double>(turn.before.size() + turn.tokens.size());
  for (std::size_t t = 0; t < turn.tokens.size(); ++t)
    feature(features[t], Feature::kFrequency) = std::log(static_cast<double>(counts[turn.tokens[t]]) / all);
}

void set_segment_type(const Tokenizer& tokenizer, const TurnTokens& turn, std::vector<TokenFeatures>& features) {
  for (std::size_t t = 0; t < turn.tokens.size(); ++t) {
    const double part = t < turn.num_asked ? 1.0 : 2.0;
    feature(features[t], Feature::kSegmentType) = tokenizer.is_control(turn.tokens[t]) ? 0.0 : part;
  }
}

double entropy_of(std::span<const float> logits, double log_sum) {
  double mean = 0.0;
  for (const float logit : logits) mean += std::exp(double{logit} - log_sum) * double{logit};
  return log_sum - mean;
}

// The mean and the variance over heads of the weight on each token.
struct WeightStatistics {
  std::vector<double> mean, variance;
};
WeightStatistics statistics_of(const TokenWeights& heads, std::size_t num_tokens) {
  WeightStatistics result{std::vector<double>(num_tokens), std::vector<double>(num_tokens)};
  const auto num_heads = static_cast<double>(heads.size());
  for (std::size_t t = 0; t < num_tokens; ++t) {
    for (const std::vector<double>& head : heads) result.mean[t] += head[t] / num_heads;
    for (const std::vector<double>& head : heads)
      result.variance[t] += (head[t] - result.mean[t]) * (head[t] - result.mean[t]) / num_heads;
  }
  return result;
}

// What reading the turn again shows.
class Reading {
 public:
  Reading(const Model& model, StepRunner& runner, const TurnTokens& turn, core::Workers& workers)
      : model_(model), runner_(runner), turn_(turn), workers_(workers), tail_(runner.make_tail(capacity())) {}

  format::Status run(const ChatTemplate& chat, std::vector<TokenFeatures>& features) {
    CardRows own(model_.config()), next(model_.config());
    feature(features[0], Feature::kQuality) = feature(features[0], Feature::kEntropy) = kUnknown;
    for (std::size_t at = 0; at < turn_.tokens.size(); at += kMaxStepRows)
      POLYKV_CHECK_STATUS(read(at, std::min(kMaxStepRows, turn_.tokens.size() - at), own, features));
    POLYKV_CHECK_STATUS(next.look_ahead(runner_, tail_, make_next_question_tokens(model_.tokenizer, chat, "")));
    const std::size_t num_tokens = turn_.tokens.size();
    const auto of_own = statistics_of(own.weights(tail_, turn_.tokens.size(), workers_), num_tokens);
    const auto of_next = statistics_of(next.weights(tail_, turn_.tokens.size(), workers_), num_tokens);
    for (std::size_t t = 0; t < num_tokens; ++t) {
      feature(features[t], Feature::kAttentionVariance) = std::log(of_own.variance[t] + kLeastWeight * kLeastWeight);
      feature(features[t], Feature::kDownstreamDemand) = std::log(of_next.mean[t] + kLeastWeight);
    }
    feature(features.back(), Feature::kAttentionVariance) = kUnknown;
    return {};
  }

 private:
  std::uint32_t capacity() const {
    const std::uint32_t room = model_.config().context_length - runner_.chain_end();
    return std::min(room, static_cast<std::uint32_t>(turn_.tokens.size() + kMaxStepRows));
  }

  // Rows [at, at + count), of which each tells of the token after it.
  format::Status read(std::size_t at, std::size_t count, CardRows& own, std::vector<TokenFeatures>& features) {
    const std::size_t vocab_size = model_.config().vocab_size;
    std::vector<float> logits(count * vocab_size);
    runner_.observe([&](const StepLayer& step) { own.add(step, 0, step.num_rows, tail_.num_seen() + 1); });
    const AgentStep step{&tail_, turn_.tokens.subspan(at, count), runner_.everything(), count, logits.data()};
    const format::Status status = runner_.step({&step, 1});
    runner_.observe({});
    POLYKV_CHECK_STATUS(status);
    workers_.run(std::min(count, turn_.tokens.size() - at - 1), [&](std::size_t row, std::size_t) {
      const auto told = std::span<const float>(logits).subspan(row * vocab_size, vocab_size);
      const std::size_t token = at + row + 1;
      const double log_sum = log_sum_exp(told);
      feature(features[token], Feature::kQuality) = double{told[turn_.tokens[token]]} - log_sum;
      feature(features[token], Feature::kEntropy) = entropy_of(told, log_sum);
    });
    return {};
  }

  const Model& model_;
  StepRunner& runner_;
  const TurnTokens& turn_;
  core::Workers& workers_;
  core::Tail tail_;
};

void fill_unknown(std::vector<TokenFeatures>& features) {
  for (std::size_t i = 0; i < kNumFeatures; ++i) {
    double sum = 0.0;
    std::size_t num_known = 0;
    for (const TokenFeatures& token : features) {
      if (std::isnan(token[i])) continue;
      sum += token[i];
      ++num_known;
    }
    for (TokenFeatures& token : features)
      if (std::isnan(token[i])) token[i] = num_known == 0 ? 0.0 : sum / static_cast<double>(num_known);
  }
}

}  // namespace

Result<std::vector<TokenFeatures>> token_features(const Model& model, const ChatTemplate& chat, StepRunner& runner,
                                                  const TurnTokens& turn, core::Workers& workers) {
  std::vector<TokenFeatures> features(turn.tokens.size());
  set_frequency(turn, features);
  set_segment_type(model.tokenizer, turn, features);
  POLYKV_CHECK_STATUS(Reading(model, runner, turn, workers).run(chat, features));
  fill_unknown(features);
  return features;
}

}  // namespace polykv::runtime
