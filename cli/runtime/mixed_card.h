// What each token of a finished agent's card is worth, and its bits.
#pragma once

#include "cli/runtime/card_rows.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/step_runner.h"
#include "cli/runtime/token_allocation.h"
#include "core/tail.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

// An agent that is finished; the tail is as before afterwards.
struct MixedCard {
  const Model* model;
  const ChatTemplate* chat;
  StepRunner* runner;
  core::Tail* tail;
  const CardRows* rows;  // the agent's own
};

// The score of a token is `own_share` (alpha of arXiv 2605.03884) of what rounding it does to the agent's own last rows,
// and the rest of what it does to those of the next turn's opening, of which all but the question is known.
inline constexpr double kOwnShare = 0.5;
inline constexpr Grain kMixedGrain = Grain::kBoth;
format::Result<TokenPlan> mixed_token_plan(const MixedCard& card, const format::KvShape& shape, double bits,
                                           core::Workers& workers, Grain grain = kMixedGrain,
                                           double own_share = kOwnShare);

}  // namespace polykv::runtime
