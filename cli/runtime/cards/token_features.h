// What the controller of "QKVShare" (arXiv 2605.03884) knows of a card's tokens: six numbers each.
//
// The first four are of the agent's own turn, the last two of what comes after it. Where the paper looks up the
// nearest of some anchors to guess what the next agent will attend to, here the opening of its turn is run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/model_identity.h"
#include "cli/runtime/step_runner.h"
#include "core/workers.h"
#include "format/status.h"

namespace polykv::runtime {

enum class Feature : std::uint8_t {
  kFrequency,          // ln of the token's share of all tokens so far, the chain's and its turn's
  kQuality,            // ln p of the token, as the model sees what is before it
  kAttentionVariance,  // ln of the variance, over layers and q_heads, of its turn's mean weight on it
  kEntropy,            // of the distribution that it was drawn from, in nats
  kDownstreamDemand,   // ln of the mean weight on it of the next turn's opening
  kSegmentType,        // 0 a control token of the template, 1 of the question, 2 of the answer
};
inline constexpr std::size_t kNumFeatures = 6;
inline constexpr std::array<const char*, kNumFeatures> kFeatureNames = {
    "frequency", "quality", "attention_variance", "entropy", "downstream_demand", "segment_type"};
inline constexpr std::array kLocalFeatures = {Feature::kFrequency, Feature::kQuality, Feature::kAttentionVariance,
                                              Feature::kEntropy};

using TokenFeatures = std::array<double, kNumFeatures>;

// An agent's turn.
struct TurnTokens {
  std::span<const std::uint32_t> before;  // all of the chain's
  std::span<const std::uint32_t> tokens;  // of the turn, not empty
  std::size_t num_asked;                  // of them, the question's
};

// [token of the turn]. Runs the turn again, with what follows every question after it. Where nothing is known of a
// token (what the first was drawn from, who looks at the last) it gets the mean of the others.
format::Result<std::vector<TokenFeatures>> token_features(const Model& model, const ChatTemplate& chat,
                                                          StepRunner& runner, const TurnTokens& turn,
                                                          core::Workers& workers);

}  // namespace polykv::runtime
