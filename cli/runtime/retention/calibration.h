// Algorithm 1 of "Heterogeneous Retention and Allocation for KV Cache Compression" (arXiv 2606.15157): from what was
// measured with one layer of the model going by a policy in one phase and everything else kept, to a policy and a
// weight for each layer and phase. Numbers in, plan out; calibration_runs.h makes the numbers.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "cli/runtime/retention/layer_plan.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// The candidates: every policy that can, but the controls, in the order of retention_policies().
std::vector<const RetentionPolicy*> calibrated_policies(Phase phase);

// What one text's runs measured, over the rows of its tail and over passages of it that are quoted after that.
struct CalibrationTable {
  // [policy], means over the tail's rows: cosine of the layer's output with everything and by the policy; loss, -ln p
  // of the text's own next token; kld of the next token, in nats. Hits: of the passages' rows, whose token is ranked
  // first.
  struct Signals {
    std::vector<double> cosine, loss, kld, hits;
    bool operator==(const Signals&) const = default;
  };
  struct Layer {
    std::vector<double> attention;  // [position of the prefix]: mean weight over the prefix's rows and q_heads
    std::array<Signals, kNumPhases> phases;
    bool operator==(const Layer&) const = default;
  };
  LayerPlan::Text text;
  std::uint32_t rows = 0, passage_rows = 0;
  double loss = 0.0;  // with everything
  std::vector<Layer> layers;
  bool operator==(const CalibrationTable&) const = default;
};

// Entropy in nats of the mean of several texts' attention, by position; a shorter text has no weight where it ends.
double attention_entropy(std::span<const std::vector<double>* const> attention);

// The plan's layers of one phase: the preferred policy, of equal ones the first (by recall: the one of least kld); the
// sensitivity; and, of each policy, the mean cosine (Eq. 2), the change of perplexity (Eq. 3), kld and recall over all
// rows of all texts. Sensitivity is the entropy of attention (Eq. 4) or the largest change of perplexity (Eq. 5) by any
// policy that is not a reconstruction, a negative one counting as none.
//   policies  calibrated_policies(phase); `tables` at least one, all of them of the same layers and policies
std::vector<LayerPlan::Layer> choose_layers(std::span<const RetentionPolicy* const> policies,
                                            std::span<const CalibrationTable> tables, Phase phase,
                                            Preference preference, SensitivitySignal sensitivity);

}  // namespace polykv::runtime
