// What the controller learns from: of an agent's turn, what rounding each token alone does to the next agent.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/cards/controller_training.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/step_runner.h"
#include "core/pool.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr std::uint32_t kLabelBits = 2;           // a token is rounded to
inline constexpr std::uint32_t kLabelAnswerTokens = 48;  // of an answer, at most

struct LabelRequest {
  const Model* model;
  const ChatTemplate* chat;
  std::span<const core::KvPool* const> chain;  // what the agents read
  std::span<const std::uint32_t> before;       // its tokens
  // Tokens of questions that are put after the chain; each is answered, and that turn labelled with the next one's
  // question after it, put as `next_questions`.
  std::vector<std::vector<std::uint32_t>> questions, next_questions;
  std::function<bool(double share)> on_progress = {};  // false stops (kInterrupted)
};

// A card for each question; tokens whose rounding changes nothing at all are left out. The label is the mean KL
// divergence over the next answer's tokens, as they are without rounding.
// kUnusableText: a question without a token, or no room for two turns after the chain.
format::Result<std::vector<std::vector<LabelledToken>>> label_turns(const LabelRequest& request,
                                                                    core::Workers& workers);

}  // namespace polykv::runtime
