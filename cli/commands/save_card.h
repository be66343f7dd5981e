// ask --save: what an agent added, as a card.
#pragma once

#include "cli/commands/desk.h"
#include "cli/options.h"
#include "cli/runtime/agent.h"
#include "cli/runtime/cards/card_plan.h"
#include "format/status.h"

namespace polykv::cli {

// What --save, --bits and --sender ask for. kUsage: without --save, with --tail-retain, or what is no number of bits;
// kExists, before any work.
format::Result<runtime::CardBits> check_save_options(const Options& options);

struct SavedCard {
  std::uint64_t bytes = 0;
  std::uint32_t tokens = 0;
  double write_ms = 0.0;
};

// `agent` is finished, with AnswerOptions::keeps_tail.
format::Result<SavedCard> save_card(const Options& options, const runtime::CardBits& bits, Desk& desk,
                                    runtime::Agent& agent);

}  // namespace polykv::cli
