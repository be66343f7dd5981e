// The precision controller of "QKVShare" (arXiv 2605.03884, section on the controller): from what is known of a card's
// token to what rounding it does, beside the card's other tokens. A two-layer perceptron of 512 parameters: 64 hidden
// units on six features, a bias each, and a weight each to the sum. `polykv calibrate --cards` makes it, `ask --save
// --bits learned:B` uses it.
//
// spec/card-bits.md, section 3. The file is JSON, schema polykv.card-controller/1, beside the model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "cli/runtime/cards/token_features.h"
#include "cli/runtime/model_identity.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr std::size_t kHiddenUnits = 64;

struct Scaling {
  double mean = 0.0, deviation = 1.0;  // the deviation is above zero
};

class Perceptron {
 public:
  std::vector<Feature> features;    // what it looks at
  std::vector<Scaling> inputs;      // [features]
  Scaling output;                   // of ln S
  std::vector<double> weights;      // [kHiddenUnits][features]
  std::vector<double> biases;       // [kHiddenUnits]
  std::vector<double> out_weights;  // [kHiddenUnits]

  std::size_t num_parameters() const { return weights.size() + biases.size() + out_weights.size(); }
  // S(t): the KL divergence that the token's rounding makes, over the geometric mean of the card's.
  double score(const TokenFeatures& token) const;
};

// How well a perceptron tells S of what it has not seen: pools left out one after another.
struct HeldOut {
  double explained = 0.0;         // share of the variance of ln S, at most 1
  double rank_correlation = 0.0;  // Spearman's
};

struct Controller {
  std::string model_name, weights_digest;
  struct Source {
    std::string name;
    std::uint32_t cards = 0, tokens = 0;
  };
  std::vector<Source> pools;
  Perceptron all, local;  // of all features, and of those of the agent's own turn alone
  HeldOut all_held_out, local_held_out;
};

// The file's text: keys in a fixed order, numbers of nine digits.
std::string controller_text(const Controller& controller);

// kMalformed, naming the place; kUnsupportedVersion, for another schema number.
format::Result<Controller> parse_controller(std::span<const std::byte> text);

// Beside the model: "model.gguf" has "model.controller.json"; in it, where the model is a folder: "controller.json".
std::filesystem::path controller_path(const std::filesystem::path& model);

// The model's, from there. kNotFound, saying how to make it; kMismatch, if it is another model's.
format::Result<Controller> open_controller(const Model& model);

}  // namespace polykv::runtime
