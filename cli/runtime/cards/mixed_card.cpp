#include "cli/runtime/cards/mixed_card.h"

#include "cli/runtime/dimension_weights.h"
#include "cli/runtime/prompt.h"

namespace polykv::runtime {
namespace {

TokenSensitivities weigh(TokenSensitivities own, const TokenSensitivities& next, double own_share) {
  const auto mix = [own_share](double& mine, double theirs) { mine = own_share * mine + (1.0 - own_share) * theirs; };
  for (std::size_t head = 0; head < own.size(); ++head) {
    for (std::size_t t = 0; t < own[head].size(); ++t) {
      mix(own[head][t].key, next[head][t].key);
      mix(own[head][t].value, next[head][t].value);
    }
  }
  return own;
}

// The mean over a head's tokens.
std::vector<Sensitivity> means_of(const TokenSensitivities& sensitivities) {
  std::vector<Sensitivity> means;
  for (const std::vector<Sensitivity>& head : sensitivities) {
    Sensitivity& mean = means.emplace_back();
    for (const Sensitivity& token : head) {
      mean.key += token.key / static_cast<double>(head.size());
      mean.value += token.value / static_cast<double>(head.size());
    }
  }
  return means;
}

// `base` in such units that its sum is that of `means`.
std::vector<Sensitivity> scaled(std::span<const Sensitivity> base, std::span<const Sensitivity> means) {
  const auto sum = [](std::span<const Sensitivity> heads) {
    double all = 0.0;
    for (const Sensitivity& head : heads) all += head.key + head.value;
    return all;
  };
  const double factor = sum(means) / sum(base);
  std::vector<Sensitivity> result;
  for (const Sensitivity& head : base) result.push_back({factor * head.key, factor * head.value});
  return result;
}

void even_out(TokenSensitivities& sensitivities, std::span<const Sensitivity> base, double even_share) {
  std::vector<Sensitivity> even = means_of(sensitivities);
  if (!base.empty()) even = scaled(base, even);
  for (std::size_t head = 0; head < sensitivities.size(); ++head) {
    for (Sensitivity& token : sensitivities[head]) {
      token.key = even_share * even[head].key + (1.0 - even_share) * token.key;
      token.value = even_share * even[head].value + (1.0 - even_share) * token.value;
    }
  }
}

format::Result<TokenSensitivities> measured_scores(const MixedCard& card, std::uint32_t num_tokens,
                                                   const MixedWeights& weights, core::Workers& workers) {
  CardRows next(card.model->config());
  POLYKV_CHECK_STATUS(
      next.look_ahead(*card.runner, *card.tail, make_next_question_tokens(card.model->tokenizer, *card.chat, "")));
  const std::vector<float> squares = output_squares(card.model->file, workers);
  const auto measure = [&](const CardRows& rows) { return rows.measure(*card.tail, num_tokens, squares, workers); };
  if (weights.own_share <= 0.0) return measure(next);
  return weigh(measure(*weights.own), measure(next), weights.own_share);
}

// The same tokens in all heads, each as much as the head counts on the base, or else here.
format::Result<TokenSensitivities> learned_scores(const MixedCard& card, std::uint32_t num_tokens,
                                                  const Perceptron& learned, core::Workers& workers) {
  std::vector<Sensitivity> heads(card.base.begin(), card.base.end());
  if (heads.empty()) {
    POLYKV_TRY(const TokenSensitivities measured, measured_scores(card, num_tokens, {}, workers));
    heads = means_of(measured);
  }
  POLYKV_TRY(const auto features, token_features(*card.model, *card.chat, *card.runner, card.turn, workers));
  TokenSensitivities scores(heads.size());
  for (std::size_t head = 0; head < heads.size(); ++head) {
    for (const TokenFeatures& token : features) {
      const double score = learned.score(token);
      scores[head].push_back({score * heads[head].key, score * heads[head].value});
    }
  }
  return scores;
}

}  // namespace

format::Result<TokenPlan> mixed_token_plan(const MixedCard& card, const format::KvShape& shape, double bits,
                                           core::Workers& workers, Grain grain, MixedWeights weights) {
  POLYKV_TRY(TokenSensitivities scores, weights.learned != nullptr
                                            ? learned_scores(card, shape.num_tokens, *weights.learned, workers)
                                            : measured_scores(card, shape.num_tokens, weights, workers));
  even_out(scores, card.base, weights.even_share);
  return allocate_tokens(shape, scores, bits, grain);
}

}  // namespace polykv::runtime
