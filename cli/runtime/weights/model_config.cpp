#include "cli/runtime/weights/model_config.h"

#include <cmath>
#include <numbers>

namespace polykv::runtime {
namespace {

// Llama 3.1's rule: long waves are stretched by `factor`, short ones kept, those between interpolated.
double llama3_scaled(double frequency, const RopeConfig& rope) {
  const double wave = 2 * std::numbers::pi / frequency;
  if (wave > rope.original_context / rope.low_freq_factor) return frequency / rope.factor;
  if (wave < rope.original_context / rope.high_freq_factor) return frequency;
  const double kept =
      (rope.original_context / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - kept) * frequency / rope.factor + kept * frequency;
}

}  // namespace

std::vector<double> RopeConfig::inverse_frequencies(std::uint32_t head_dim) const {
  std::vector<double> out(head_dim / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / head_dim);
    if (i < frequency_divisors.size()) {
      frequency /= static_cast<double>(frequency_divisors[i]);
    } else if (scaling == RopeScaling::kLlama3) {
      frequency = llama3_scaled(frequency, *this);
    }
    out[i] = scaling == RopeScaling::kLinear ? frequency / factor : frequency;
  }
  return out;
}

}  // namespace polykv::runtime
