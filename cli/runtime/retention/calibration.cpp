#include "cli/runtime/retention/calibration.h"

#include <algorithm>
#include <cmath>

namespace polykv::runtime {
namespace {

using Signals = CalibrationTable::Signals;

// The mean over all rows of all texts.
template <typename Value>
double mean_over_rows(std::span<const CalibrationTable> tables, std::uint32_t CalibrationTable::*rows,
                      const Value& value) {
  double sum = 0.0, weight = 0.0;
  for (const CalibrationTable& table : tables) {
    sum += value(table) * table.*rows;
    weight += table.*rows;
  }
  return sum / weight;
}

// A reconstruction has no say: CaM's, in the first layer alone, adds hundreds where others add a fifth, and the budget
// would be that layer's.
double largest_loss(std::span<const RetentionPolicy* const> policies,
                    std::span<const LayerPlan::PolicyValue> perplexity) {
  double largest = 0.0;
  for (std::size_t i = 0; i < policies.size(); ++i)
    if (!policies[i]->is_reconstruction) largest = std::max(largest, perplexity[i].value);
  return largest;
}

// Less is better.
std::pair<double, double> harm(const LayerPlan::Layer& layer, std::size_t policy, Preference preference) {
  switch (preference) {
    case Preference::kCosine:
      return {-layer.cosine[policy].value, 0.0};
    case Preference::kPerplexity:
      return {layer.perplexity[policy].value, 0.0};
    case Preference::kKld:
      return {layer.kld[policy].value, 0.0};
    case Preference::kRecall:  // of which there are few values
      return {-layer.recall[policy].value, layer.kld[policy].value};
  }
  return {};
}

// The first of the best: the policies are in the table's order.
std::size_t preferred(const LayerPlan::Layer& layer, Preference preference) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < layer.cosine.size(); ++i)
    if (harm(layer, i, preference) < harm(layer, best, preference)) best = i;
  return best;
}

}  // namespace

std::vector<const RetentionPolicy*> calibrated_policies(Phase phase) {
  std::vector<const RetentionPolicy*> policies;
  for (const RetentionPolicy& policy : retention_policies())
    if (policy.kind != PolicyKind::kControl && chooses_in_layer(policy, phase)) policies.push_back(&policy);
  return policies;
}

double attention_entropy(std::span<const std::vector<double>* const> attention) {
  std::vector<double> mean;
  for (const std::vector<double>* one : attention) {
    mean.resize(std::max(mean.size(), one->size()));
    for (std::size_t i = 0; i < one->size(); ++i) mean[i] += (*one)[i] / static_cast<double>(attention.size());
  }
  double entropy = 0.0;
  for (const double p : mean)
    if (p > 0.0) entropy -= p * std::log(p);
  return std::max(0.0, entropy);
}

std::vector<LayerPlan::Layer> choose_layers(std::span<const RetentionPolicy* const> policies,
                                            std::span<const CalibrationTable> tables, Phase phase,
                                            Preference preference, SensitivitySignal sensitivity) {
  constexpr auto kRows = &CalibrationTable::rows, kPassageRows = &CalibrationTable::passage_rows;
  const double full = std::exp(mean_over_rows(tables, kRows, [](const CalibrationTable& table) { return table.loss; }));
  std::vector<LayerPlan::Layer> layers(tables.front().layers.size());
  for (std::size_t l = 0; l < layers.size(); ++l) {
    LayerPlan::Layer& layer = layers[l];
    for (std::size_t p = 0; p < policies.size(); ++p) {
      const auto mean_of = [&](std::vector<double> Signals::*member, std::uint32_t CalibrationTable::*rows) {
        return mean_over_rows(tables, rows, [&](const CalibrationTable& table) {
          return (table.layers[l].phases[static_cast<std::size_t>(phase)].*member)[p];
        });
      };
      const std::string name = policies[p]->name;
      layer.cosine.push_back({name, mean_of(&Signals::cosine, kRows)});
      layer.perplexity.push_back({name, std::exp(mean_of(&Signals::loss, kRows)) - full});
      layer.kld.push_back({name, mean_of(&Signals::kld, kRows)});
      layer.recall.push_back({name, mean_of(&Signals::hits, kPassageRows)});
    }
    layer.policy = policies[preferred(layer, preference)];
    std::vector<const std::vector<double>*> attention;
    for (const CalibrationTable& table : tables) attention.push_back(&table.layers[l].attention);
    layer.sensitivity = sensitivity == SensitivitySignal::kEntropy ? attention_entropy(attention)
                                                                   : largest_loss(policies, layer.perplexity);
  }
  return layers;
}

}  // namespace polykv::runtime
