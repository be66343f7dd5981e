#include "cli/runtime/mixed_card.h"

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

}  // namespace

format::Result<TokenPlan> mixed_token_plan(const MixedCard& card, const format::KvShape& shape, double bits,
                                           core::Workers& workers, Grain grain, double own_share) {
  CardRows next(card.model->config());
  POLYKV_CHECK_STATUS(
      next.look_ahead(*card.runner, *card.tail, make_next_question_tokens(card.model->tokenizer, *card.chat, "")));
  const std::vector<float> squares = output_squares(card.model->file, workers);
  const auto measure = [&](const CardRows& rows) { return rows.measure(*card.tail, shape.num_tokens, squares, workers); };
  return allocate_tokens(shape, weigh(measure(*card.rows), measure(next), own_share), bits, grain);
}

}  // namespace polykv::runtime
