#include "cli/runtime/retention/calibration.h"

#include <algorithm>
#include <cmath>

namespace polykv::runtime {
namespace {

// The mean over all rows of all texts.
template <typename Value>
double mean_over_rows(std::span<const CalibrationTable> tables, const Value& value) {
  double sum = 0.0, rows = 0.0;
  for (const CalibrationTable& table : tables) {
    sum += value(table) * table.rows;
    rows += table.rows;
  }
  return sum / rows;
}

double largest_loss(std::span<const LayerPlan::PolicyValue> perplexity) {
  double largest = 0.0;
  for (const LayerPlan::PolicyValue& value : perplexity) largest = std::max(largest, value.value);
  return largest;
}

// The first of the best: the policies are in the table's order.
std::size_t preferred(const LayerPlan::Layer& layer, Preference preference) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < layer.cosine.size(); ++i) {
    const bool better = preference == Preference::kCosine ? layer.cosine[i].value > layer.cosine[best].value
                                                          : layer.perplexity[i].value < layer.perplexity[best].value;
    if (better) best = i;
  }
  return best;
}

}  // namespace

std::vector<const RetentionPolicy*> calibrated_policies() {
  std::vector<const RetentionPolicy*> policies;
  for (const RetentionPolicy& policy : retention_policies())
    if (policy.kind != PolicyKind::kControl && chooses_in_layer(policy)) policies.push_back(&policy);
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
                                            std::span<const CalibrationTable> tables, Preference preference,
                                            SensitivitySignal sensitivity) {
  const double full = std::exp(mean_over_rows(tables, [](const CalibrationTable& table) { return table.loss; }));
  std::vector<LayerPlan::Layer> layers(tables.front().layers.size());
  for (std::size_t l = 0; l < layers.size(); ++l) {
    LayerPlan::Layer& layer = layers[l];
    for (std::size_t p = 0; p < policies.size(); ++p) {
      const auto mean_of = [&](std::vector<double> CalibrationTable::Layer::*member) {
        return mean_over_rows(tables, [&](const CalibrationTable& table) { return (table.layers[l].*member)[p]; });
      };
      layer.cosine.push_back({policies[p]->name, mean_of(&CalibrationTable::Layer::cosine)});
      layer.perplexity.push_back({policies[p]->name, std::exp(mean_of(&CalibrationTable::Layer::loss)) - full});
    }
    layer.policy = policies[preferred(layer, preference)];
    std::vector<const std::vector<double>*> attention;
    for (const CalibrationTable& table : tables) attention.push_back(&table.layers[l].attention);
    layer.sensitivity =
        sensitivity == SensitivitySignal::kEntropy ? attention_entropy(attention) : largest_loss(layer.perplexity);
  }
  return layers;
}

}  // namespace polykv::runtime
