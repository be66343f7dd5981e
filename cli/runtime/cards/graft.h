// A card moved to another prefix: its keys turned to the positions that they get there, its values as they are.
//
// What an agent computed it computed from its own prefix; a graft keeps that, as if the other prefix had been there
// instead. So it is measured what that does: the same questions are answered after the card's tokens computed anew on
// the other prefix, and after the graft.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/divergence.h"
#include "cli/runtime/weights/model_file.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr const char* kGraftField = "card.graft";  // by how many positions the keys were turned: "-120", "0"

struct GraftRequest {
  const ModelFile* model;
  std::span<const core::KvPool* const> from;          // the chain that ends with the card
  CardSpec to;                                        // on the other chain; tokens and plan are the card's
  std::vector<std::vector<std::uint32_t>> questions;  // tokens, of which each is put after the card
  std::span<const std::uint32_t> end_tokens;          // of an answer, ascending
  std::function<bool(double share)> on_progress = {};
};

struct GraftReport {
  Divergence damage;  // over the answers' tokens
  std::uint64_t pool_bytes = 0;
};

// Publishes the graft at `path`, with its damage in the fidelity section. Errors: kUnsupportedFeature, if the card
// dropped positions; kInterrupted; those of the writer.
format::Result<GraftReport> graft_card(GraftRequest request, const std::filesystem::path& path,
                                       const format::WriterOptions& options, core::Workers& workers);

}  // namespace polykv::runtime
