// KVzip (arXiv 2505.23416): a position is worth what it gets when the model repeats the document.
//
// After the prefill the document goes through the model once more, in chunks, each after a request to repeat it, with
// all of the document before it. No question is guessed: whatever repeating needs is what any question may need.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cli/runtime/layer_writer.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/model_runner.h"
#include "cli/runtime/retention/policy.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

// Everything must outlive the call.
struct Repetition {
  const Model& model;
  const ChatTemplate& chat;
  std::string_view open_text;             // of the document's prompt: tokenized with what follows
  std::span<const std::uint32_t> tokens;  // the document's
  PrefillRunner& runner;
  PrefillOptions options;    // of the prefill; on_progress gets the share of the repetition that is done
  const HeadSource& source;  // keys and values that the prefill made
};

// Scores of positions [0, ends[i]) of every layer, for each of `ends`, ascending: what comes after ends[i] has no part
// in them. Scores up to an earlier end are the same in those of a later one. A score is the largest weight that a
// position gets from a row of its chunk's repetition, in a softmax over the sinks, the chunk and the repetition.
// Errors: kUnusableText: no room in the model's context for a repetition; the runner's.
format::Result<std::vector<std::vector<RetentionScores>>> score_kvzip(const Repetition& repetition,
                                                                      std::span<const std::uint32_t> ends,
                                                                      core::Workers& workers);

}  // namespace polykv::runtime
