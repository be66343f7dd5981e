// What each token of a finished agent's card is worth, and its bits. spec/card-bits.md.
#pragma once

#include <span>

#include "cli/runtime/cards/card_rows.h"
#include "cli/runtime/cards/controller.h"
#include "cli/runtime/cards/token_allocation.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/step_runner.h"
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
  // Of the base pool's heads, as build measured them; empty where it did not.
  std::span<const Sensitivity> base = {};
  TurnTokens turn = {};  // needed with MixedWeights::learned
};

// A token's score is what rounding it does to the rows of the next turn's opening, of which all but the question is
// known, and to a share (alpha of arXiv 2605.03884) to the agent's own last rows, which tell less of what comes: the
// default leaves them out. Most of it (`even_share`) is alike for all tokens of a head, for which of them a question
// will look at is hard to tell: the head's part of what was measured on the base pool's document, or else here. What
// each share is worth: tests/eval/README.md.
struct MixedWeights {
  double own_share = 0.0, even_share = 0.9;
  const CardRows* own = nullptr;  // needed with own_share
  // Instead of what is measured of the tokens: what it says of them, in proportion in all heads.
  const Perceptron* learned = nullptr;
};
inline constexpr Grain kMixedGrain = Grain::kBoth;
inline constexpr double kLearnedEvenShare = 0.0;
format::Result<TokenPlan> mixed_token_plan(const MixedCard& card, const format::KvShape& shape, double bits,
                                           core::Workers& workers, Grain grain = kMixedGrain,
                                           MixedWeights weights = {});

}  // namespace polykv::runtime
