// A plan of retention by layer: whose scores each layer goes by, and how much of the budget it should get. Made by
// `polykv calibrate` (calibration.h), used by `build --retain FILE`.
//
// The file is JSON, schema polykv.retention-plan/1. Of a layer only its number, policy and sensitivity are needed; a
// plan may be written by hand. Of the two phases the decode may be left out.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/model_identity.h"
#include "cli/runtime/retention/selection.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr std::uint32_t kLayerFloor = 36;  // positions of a layer for sure: sinks and the largest window
inline constexpr double kLayerEpsilon = 1e-6;     // added to sensitivities, so that all zeros share equally

enum class Phase : std::uint8_t { kPrefill, kDecode };  // what a pool keeps; what an agent's own tail keeps
inline constexpr std::size_t kNumPhases = 2;
const char* phase_name(Phase phase);

// What a layer's policy was chosen by. The first two are the paper's; kKld: divergence of the next token; kRecall: how
// much of passages is repeated.
enum class Preference : std::uint8_t { kCosine, kPerplexity, kKld, kRecall };
enum class SensitivitySignal : std::uint8_t { kEntropy, kPerplexity };  // what its part of the budget goes by
const char* preference_name(Preference preference);
const char* sensitivity_name(SensitivitySignal signal);
std::optional<Preference> find_preference(std::string_view name);
std::optional<SensitivitySignal> find_sensitivity(std::string_view name);

// Can a layer go by this policy whatever the others do? Not by one that keeps everything, or looks at all layers; in
// the decode not by one that looks at more than the last rows.
bool chooses_in_layer(const RetentionPolicy& policy, Phase phase);

struct LayerPlan {
  struct Text {
    std::string name;
    std::uint64_t bytes = 0;
    std::uint32_t tokens = 0;  // of it that were looked at
    bool operator==(const Text&) const = default;
  };
  struct PolicyValue {
    std::string policy;
    double value = 0.0;
    bool operator==(const PolicyValue&) const = default;
  };
  struct Layer {
    const RetentionPolicy* policy = nullptr;
    double sensitivity = 0.0;  // not negative
    // What was measured of each policy: perplexity, its change; kld in nats; recall, the share of quoted tokens that
    // are ranked first.
    std::vector<PolicyValue> cosine, perplexity, kld, recall;
    bool operator==(const Layer&) const = default;
  };

  std::string model_name, weights_digest;
  std::vector<Text> texts;
  std::array<std::uint32_t, kNumPhases> keep = {};  // positions of a head, of the layer that was looked at
  Preference preference = Preference::kCosine;
  SensitivitySignal sensitivity = SensitivitySignal::kEntropy;
  std::uint32_t floor = kLayerFloor;
  double epsilon = kLayerEpsilon;
  std::array<std::vector<Layer>, kNumPhases> phases;
  const std::vector<Layer>& layers(Phase phase) const { return phases[static_cast<std::size_t>(phase)]; }
  bool operator==(const LayerPlan&) const = default;
};

// The file's text: keys in a fixed order, numbers of nine digits.
std::string layer_plan_text(const LayerPlan& plan);

// Errors: kMalformed, naming the place; kUnsupportedVersion, for another schema number.
format::Result<LayerPlan> parse_layer_plan(std::span<const std::byte> text);

// kMismatch, if the plan is for other weights or another number of layers.
format::Status check_plan_fits(const LayerPlan& plan, const Model& model);

// What `build` and `ask` do with it: Eq. 6 of arXiv 2606.15157. Uniform: every layer gets the same. The plan has the
// phase.
LayerPolicies layer_policies(const LayerPlan& plan, Phase phase, bool uniform);

}  // namespace polykv::runtime
