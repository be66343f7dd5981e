// What commands that make cards share: ask --save and append.
#pragma once

#include <span>
#include <string>

#include "cli/commands/desk.h"
#include "cli/options.h"
#include "cli/runtime/cards/card_plan.h"
#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/sensitivity.h"
#include "format/status.h"

namespace polykv::cli {

// --bits. kUsage.
format::Result<runtime::CardBits> read_card_bits(const Options& options);

// kUsage, if `output` is one of the pools that the card would extend, or that are read: replacing it would break what
// needs it.
format::Status refuse_parent(const std::string& output, const PoolChain& chain);

// A card of these tokens on the desk's chain, whose views are `chain`. The plan is left to be made.
runtime::CardSpec card_spec(const Desk& desk, std::span<const core::KvPool* const> chain, format::Tokens tokens,
                            const runtime::CardBits& bits, const Options& options);

// Of bits that are not mixed.
runtime::TokenPlan plain_plan(const runtime::CardBits& bits, const Desk& desk, std::size_t num_tokens);

// Of the base pool's heads, as build measured them; empty where it did not.
format::Result<std::vector<runtime::Sensitivity>> base_sensitivities(const Desk& desk);

// For tokens that are not read yet: where bits are mixed, each head gets its own. kUsage: nothing was measured of the
// base pool's heads; or bits by what tokens there are.
format::Result<runtime::TokenPlan> plan_ahead(const runtime::CardBits& bits, const Desk& desk, std::size_t num_tokens);

// So that a card's parents are found again even if the card is elsewhere.
void remember_parents(const PoolChain& chain);

}  // namespace polykv::cli
