// Algorithm 1 of "Heterogeneous Retention and Allocation for KV Cache Compression" (arXiv 2606.15157), the phase of the
// prefill: from what was measured with one layer of the model going by a policy and all others keeping everything, to a
// policy and a weight for each layer. Numbers in, plan out; calibration_runs.h makes the numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/retention/layer_plan.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// The candidates: every policy but the controls and fullkv, in the order of retention_policies().
std::vector<const RetentionPolicy*> calibrated_policies();

// What one text's runs measured, over the rows of its tail.
struct CalibrationTable {
  struct Layer {
    std::vector<double> attention;  // [position of the prefix]: mean weight over the prefix's rows and q_heads
    std::vector<double> cosine;     // [policy]: mean over rows, of the layer's output with everything and by the policy
    std::vector<double> loss;       // [policy]: mean over rows, -ln p of the text's own next token
    bool operator==(const Layer&) const = default;
  };
  LayerPlan::Text text;
  std::uint32_t rows = 0;
  double loss = 0.0;  // with everything
  std::vector<Layer> layers;
  bool operator==(const CalibrationTable&) const = default;
};

// Entropy in nats of the mean of several texts' attention, by position; a shorter text has no weight where it ends.
double attention_entropy(std::span<const std::vector<double>* const> attention);

// The plan's layers: the preferred policy, of equal ones the first; the sensitivity; and, of each policy, the mean
// cosine (Eq. 2) and the change of perplexity (Eq. 3) over all rows of all texts. Sensitivity is the entropy of
// attention (Eq. 4) or the largest change of perplexity (Eq. 5), a negative one counting as none.
//   policies  calibrated_policies(); `tables` at least one, all of them of the same layers and policies
std::vector<LayerPlan::Layer> choose_layers(std::span<const RetentionPolicy* const> policies,
                                            std::span<const CalibrationTable> tables, Preference preference,
                                            SensitivitySignal sensitivity);

}  // namespace polykv::runtime
