// How the controller is made: perceptrons fitted to what rounding tokens one at a time did.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cli/runtime/cards/controller.h"

namespace polykv::runtime {

struct LabelledToken {
  TokenFeatures features = {};
  double kld = 0.0;  // of what follows, if that token alone is rounded; above zero
  bool operator==(const LabelledToken&) const = default;
};

// What one pool's cards showed.
struct LabelledPool {
  std::string name;
  std::vector<std::vector<LabelledToken>> cards;
  bool operator==(const LabelledPool&) const = default;
};

inline constexpr std::size_t kFewestLabelledPools = 2;  // one is held out

// Fits both perceptrons to all tokens, and says how well they would tell each pool fitted to the others: the least mean
// square of ln S, by Adam, from a fixed start, so that the same labels make the same controller. Model name and digest
// are left to the caller. At least kFewestLabelledPools pools, none of them empty.
Controller train_controller(std::span<const LabelledPool> pools);

}  // namespace polykv::runtime
