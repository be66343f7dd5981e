#include "cli/runtime/cards/controller_training.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace polykv::runtime {
namespace {

constexpr int kEpochs = 400;  // each a step, of all tokens together
constexpr double kRate = 0.01, kDecay = 0.01;
constexpr double kFirstDecay = 0.9, kSecondDecay = 0.999, kAdamEpsilon = 1e-8;
constexpr double kLeastDeviation = 1e-3;  // of a feature that never changes

struct Sample {
  const TokenFeatures* features;
  double label;  // ln of the token's KLD, less its card's mean: which tokens of a card, not which cards
};
using Samples = std::vector<Sample>;

Samples samples_of(std::span<const LabelledPool> pools, std::size_t left_out) {
  Samples samples;
  for (std::size_t i = 0; i < pools.size(); ++i) {
    if (i == left_out) continue;
    for (const auto& card : pools[i].cards) {
      double mean = 0.0;
      for (const LabelledToken& token : card) mean += std::log(token.kld) / static_cast<double>(card.size());
      for (const LabelledToken& token : card) samples.push_back({&token.features, std::log(token.kld) - mean});
    }
  }
  return samples;
}

double value_of(const Sample& sample, Feature feature) { return (*sample.features)[static_cast<std::size_t>(feature)]; }

template <typename Value>
Scaling scaling_of(const Samples& samples, Value value) {
  Scaling scaling;
  const auto count = static_cast<double>(samples.size());
  double squares = 0.0;
  for (const Sample& sample : samples) scaling.mean += value(sample) / count;
  for (const Sample& sample : samples) squares += std::pow(value(sample) - scaling.mean, 2) / count;
  scaling.deviation = std::max(std::sqrt(squares), kLeastDeviation);
  return scaling;
}

// One group of parameters and its moments (Kingma and Ba, arXiv 1412.6980, Algorithm 1).
struct Adam {
  explicit Adam(std::vector<double>& parameters_)
      : parameters(parameters_), gradient(parameters.size()), first(parameters.size()), second(parameters.size()) {}

  // Step `number`, from 1; the gradient is then zero again.
  void step(int number) {
    const double first_scale = 1.0 - std::pow(kFirstDecay, number), second_scale = 1.0 - std::pow(kSecondDecay, number);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const double slope = gradient[i] + kDecay * parameters[i];
      first[i] = kFirstDecay * first[i] + (1.0 - kFirstDecay) * slope;
      second[i] = kSecondDecay * second[i] + (1.0 - kSecondDecay) * slope * slope;
      parameters[i] -= kRate * (first[i] / first_scale) / (std::sqrt(second[i] / second_scale) + kAdamEpsilon);
    }
    std::fill(gradient.begin(), gradient.end(), 0.0);
  }

  std::vector<double>& parameters;
  std::vector<double> gradient, first, second;
};

// Even in [-1, 1] times `size`: the standard library's distributions differ between libraries, its generator does not.
void randomize(std::vector<double>& values, double size, std::mt19937& random) {
  for (double& value : values) value = size * (2.0 * static_cast<double>(random()) / 4294967296.0 - 1.0);
}

Perceptron untrained(const Samples& samples, std::span<const Feature> features) {
  Perceptron perceptron;
  perceptron.features.assign(features.begin(), features.end());
  for (const Feature feature : features)
    perceptron.inputs.push_back(scaling_of(samples, [&](const Sample& sample) { return value_of(sample, feature); }));
  perceptron.output = scaling_of(samples, [](const Sample& sample) { return sample.label; });
  perceptron.weights.resize(kHiddenUnits * features.size());
  perceptron.biases.resize(kHiddenUnits);
  perceptron.out_weights.resize(kHiddenUnits);
  std::mt19937 random(1);
  randomize(perceptron.weights, 1.0 / std::sqrt(static_cast<double>(features.size())), random);
  randomize(perceptron.biases, 1.0 / std::sqrt(static_cast<double>(features.size())), random);
  randomize(perceptron.out_weights, 1.0 / std::sqrt(static_cast<double>(kHiddenUnits)), random);
  return perceptron;
}

// Gradients of the square error of one token, back through the perceptron.
class Descent {
 public:
  explicit Descent(Perceptron& perceptron)
      : perceptron_(perceptron),
        weights_(perceptron.weights),
        biases_(perceptron.biases),
        out_weights_(perceptron.out_weights) {}

  // `share` of the gradient; inputs and label scaled.
  void add(std::span<const double> input, double label, double share) {
    const std::size_t num_inputs = input.size();
    double sum = 0.0;
    for (std::size_t unit = 0; unit < kHiddenUnits; ++unit) {
      const double* weights = &perceptron_.weights[unit * num_inputs];
      hidden_[unit] = std::max(std::inner_product(input.begin(), input.end(), weights, perceptron_.biases[unit]), 0.0);
      sum += perceptron_.out_weights[unit] * hidden_[unit];
    }
    const double slope = 2.0 * share * (sum - label);
    for (std::size_t unit = 0; unit < kHiddenUnits; ++unit) {
      if (hidden_[unit] <= 0.0) continue;
      out_weights_.gradient[unit] += slope * hidden_[unit];
      const double inner = slope * perceptron_.out_weights[unit];
      biases_.gradient[unit] += inner;
      for (std::size_t i = 0; i < num_inputs; ++i) weights_.gradient[unit * num_inputs + i] += inner * input[i];
    }
  }

  void step(int number) {
    for (Adam* group : {&weights_, &biases_, &out_weights_}) group->step(number);
  }

 private:
  Perceptron& perceptron_;
  Adam weights_, biases_, out_weights_;
  std::array<double, kHiddenUnits> hidden_ = {};
};

Perceptron fit(const Samples& samples, std::span<const Feature> features) {
  Perceptron perceptron = untrained(samples, features);
  std::vector<double> inputs;  // [sample][feature], scaled
  for (const Sample& sample : samples)
    for (std::size_t i = 0; i < features.size(); ++i)
      inputs.push_back((value_of(sample, features[i]) - perceptron.inputs[i].mean) / perceptron.inputs[i].deviation);
  Descent descent(perceptron);
  const double share = 1.0 / static_cast<double>(samples.size());
  for (int epoch = 1; epoch <= kEpochs; ++epoch) {
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const double label = (samples[i].label - perceptron.output.mean) / perceptron.output.deviation;
      descent.add(std::span(inputs).subspan(i * features.size(), features.size()), label, share);
    }
    descent.step(epoch);
  }
  return perceptron;
}

// Each value's place among all; equal ones share the mean of theirs.
std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2.0;
  }
  return ranks;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto count = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / count;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / count;
  double both = 0.0, squares_a = 0.0, squares_b = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    both += (a[i] - mean_a) * (b[i] - mean_b);
    squares_a += (a[i] - mean_a) * (a[i] - mean_a);
    squares_b += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return squares_a > 0.0 && squares_b > 0.0 ? both / std::sqrt(squares_a * squares_b) : 0.0;
}

HeldOut hold_out(std::span<const LabelledPool> pools, std::span<const Feature> features) {
  std::vector<double> told, found;
  for (std::size_t left_out = 0; left_out < pools.size(); ++left_out) {
    const Perceptron perceptron = fit(samples_of(pools, left_out), features);
    for (const Sample& sample : samples_of(pools.subspan(left_out, 1), pools.size())) {
      told.push_back(std::log(perceptron.score(*sample.features)));
      found.push_back(sample.label);
    }
  }
  const double mean = std::accumulate(found.begin(), found.end(), 0.0) / static_cast<double>(found.size());
  double left = 0.0, all = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    left += (found[i] - told[i]) * (found[i] - told[i]);
    all += (found[i] - mean) * (found[i] - mean);
  }
  return {all > 0.0 ? 1.0 - left / all : 0.0, correlation(ranks_of(told), ranks_of(found))};
}

}  // namespace

Controller train_controller(std::span<const LabelledPool> pools) {
  std::vector<Feature> every;
  for (std::size_t i = 0; i < kNumFeatures; ++i) every.push_back(static_cast<Feature>(i));
  Controller controller;
  for (const LabelledPool& pool : pools) {
    std::size_t num_tokens = 0;
    for (const auto& card : pool.cards) num_tokens += card.size();
    controller.pools.push_back(
        {pool.name, static_cast<std::uint32_t>(pool.cards.size()), static_cast<std::uint32_t>(num_tokens)});
  }
  const Samples samples = samples_of(pools, pools.size());
  controller.all = fit(samples, every);
  controller.local = fit(samples, kLocalFeatures);
  controller.all_held_out = hold_out(pools, every);
  controller.local_held_out = hold_out(pools, kLocalFeatures);
  return controller;
}

}  // namespace polykv::runtime
