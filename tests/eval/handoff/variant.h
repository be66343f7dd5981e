// In which precision cards are handed over.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cli/runtime/cards/card_plan.h"
#include "cli/runtime/cards/card_rows.h"
#include "cli/runtime/cards/controller.h"
#include "cli/runtime/cards/mixed_card.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/step_runner.h"
#include "format/reader.h"

namespace polykv::eval {

// As ask's --bits says it ("16", "4", "auto:4"), "base", or
//   tokens:B paper:B heads:B both:B what may differ (token_allocation.h); auto:B is one of them
//   ...@own=A ...@even=B      MixedWeights
//   ...@alone                 without what build measured of the base's heads
//   ...@learned ...@local     by the controller: by all that it looks at, by the agent's own turn alone
struct Variant {
  std::string name;
  runtime::CardBits bits;
  runtime::Grain grain = runtime::kMixedGrain;
  runtime::MixedWeights weights = {};
  bool knows_base = true;
};
// `controller` may be null, if no variant is by it; it must outlive the variant.
std::optional<Variant> parse_variant(std::string_view name, const runtime::Controller* controller);

// What an agent leaves behind.
struct Finished {
  runtime::StepRunner* runner;
  core::Tail* tail;
  const runtime::CardRows* rows;
  runtime::TurnTokens turn;
};

format::Result<runtime::TokenPlan> plan_of(const Variant& variant, const runtime::Model& model,
                                           const runtime::ChatTemplate& chat, const format::PoolReader& base,
                                           const Finished& agent, core::Workers& workers);

}  // namespace polykv::eval
