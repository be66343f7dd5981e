#include "cli/commands/fidelity_plots.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cli/commands/svg_plot.h"
#include "cli/runtime/bit_allocation.h"
#include "cli/runtime/codec_choice.h"

namespace polykv::cli {
namespace {

using format::KvShape;
using runtime::CodecPlan;
using runtime::Sensitivity;

constexpr double kFewestBits = 2.25, kMostBits = 6.0, kBitsStep = 0.25;
constexpr const char* kPresets[] = {"k8v3", "k6v4", "k5v4", "k4v4", "k4v3", "k3v3"};

double bits_per_value(const KvShape& shape, const CodecPlan& plan) {
  const double values = 2.0 * shape.num_layers * shape.num_kv_heads * shape.num_tokens * shape.head_dim;
  return 8.0 * static_cast<double>(runtime::plan_kv_bytes(shape, plan)) / values;
}

struct NamedPoint {
  std::string name;
  Plot::Point point;  // bits per value, expected KL divergence
};

std::vector<Plot::Point> best_plans(const KvShape& shape, std::span<const Sensitivity> sensitivities) {
  std::vector<Plot::Point> points;
  for (double bits = kFewestBits; bits <= kMostBits; bits += kBitsStep) {
    const auto plan = runtime::plan_of_bits(shape, sensitivities, bits);
    if (!plan) continue;  // too few bits for so short a document
    const double kld = runtime::expected_kld(sensitivities, *plan);
    if (kld > 0) points.emplace_back(bits_per_value(shape, *plan), kld);
  }
  return points;
}

std::vector<NamedPoint> preset_plans(const KvShape& shape, std::span<const Sensitivity> sensitivities) {
  std::vector<NamedPoint> points;
  for (const char* name : kPresets) {
    const CodecPlan plan = runtime::uniform_plan(shape, *core::parse_codec_name(name));
    const double kld = runtime::expected_kld(sensitivities, plan);
    if (kld > 0) points.push_back({name, {bits_per_value(shape, plan), kld}});
  }
  return points;
}

// From a little before the least to a little after the greatest, in half bits.
Axis bits_axis(const std::vector<double>& bits) {
  const auto [least, most] = std::minmax_element(bits.begin(), bits.end());
  return {"bits per value", std::floor(2 * *least - 0.2) / 2, std::ceil(2 * *most + 0.2) / 2, false, false};
}

std::string head_title(const KvShape& shape, const std::vector<HeadPlan>& heads, std::size_t head) {
  const HeadPlan& plan = heads[head];
  std::string title = "layer " + std::to_string(head / shape.num_kv_heads) + ", kv_head " +
                      std::to_string(head % shape.num_kv_heads) + ": ";
  if (plan.num_runs == 0) return title + "no position but the first";
  title += key_codec_name(plan.codec.key) + " " + value_codec_name(plan.codec.value);
  return plan.num_runs == 1 ? title : title + " and other codecs, in " + std::to_string(plan.num_runs) + " runs";
}

}  // namespace

std::string bits_svg(const KvShape& shape, const std::vector<HeadPlan>& heads, bool is_key) {
  HeatMap map{.description = std::string("Bits of the ") + (is_key ? "keys" : "values") + " by layer and kv_head",
              .row_name = "kv_head",
              .column_name = "layer",
              .num_rows = shape.num_kv_heads,
              .num_columns = shape.num_layers,
              .cells = {}};
  for (std::size_t kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
    for (std::size_t layer = 0; layer < shape.num_layers; ++layer) {
      const std::size_t head = layer * shape.num_kv_heads + kv_head;
      const format::CodecId codec = is_key ? heads[head].codec.key : heads[head].codec.value;
      const std::string digit = heads[head].num_runs == 0 ? "0" : bits_digit(codec);
      map.cells.push_back(
          {heads[head].num_runs > 1 ? digit + "*" : digit, "b" + digit, head_title(shape, heads, head)});
    }
  }
  return heat_map_svg(map);
}

std::vector<LayerDamage> damage_of_layers(const KvShape& shape, std::span<const Sensitivity> sensitivities,
                                          const CodecPlan& plan) {
  std::vector<LayerDamage> layers;
  const std::size_t num_heads = shape.num_kv_heads;
  for (std::size_t first = 0; first < plan.size(); first += num_heads) {
    const CodecPlan of_layer(plan.begin() + static_cast<std::ptrdiff_t>(first),
                             plan.begin() + static_cast<std::ptrdiff_t>(first + num_heads));
    std::vector<Sensitivity> keys, values;  // as if the other of the two were not rounded
    for (const Sensitivity& sensitivity : sensitivities.subspan(first, num_heads)) {
      keys.push_back({sensitivity.key, 0.0});
      values.push_back({0.0, sensitivity.value});
    }
    layers.push_back({runtime::expected_kld(keys, of_layer), runtime::expected_kld(values, of_layer)});
  }
  return layers;
}

std::string damage_svg(const std::vector<LayerDamage>& layers) {
  std::vector<double> sums;
  for (const LayerDamage& layer : layers) sums.push_back(layer.key + layer.value);
  Plot plot("Expected KL divergence by layer, from keys and from values",
            {"layer", -0.5, static_cast<double>(layers.size()) - 0.5, false, true},
            linear_axis("expected KL divergence", sums));
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string layer = "layer " + std::to_string(i) + ": ";
    const double x = static_cast<double>(i), key = layers[i].key;
    plot.bar(x - 0.4, x + 0.4, 0, key, "keys", layer + "keys " + short_number(key, 2));
    plot.bar(x - 0.4, x + 0.4, key, sums[i], "values", layer + "values " + short_number(layers[i].value, 2));
  }
  return plot.svg();
}

std::string positions_svg(const std::vector<double>& klds, std::uint64_t first) {
  const double mean = std::accumulate(klds.begin(), klds.end(), 0.0) / static_cast<double>(klds.size());
  const double begin = static_cast<double>(first), count = static_cast<double>(klds.size());
  Plot plot("KL divergence at each position of the tail probe", {"position", begin - 1, begin + count, false, true},
            decades_axis("KL divergence", klds));
  for (std::size_t i = 0; i < klds.size(); ++i) {
    const double position = begin + static_cast<double>(i);
    plot.dot({position, klds[i]}, 2.5, "measured",
             "position " + std::to_string(first + i) + ": " + short_number(klds[i], 2));
  }
  if (mean > 0) plot.level(mean, "mean", "mean " + short_number(mean, 2));
  return plot.svg();
}

std::string size_svg(const KvShape& shape, std::span<const Sensitivity> sensitivities, const PoolPoint& pool) {
  const std::vector<Plot::Point> best = best_plans(shape, sensitivities);
  const std::vector<NamedPoint> presets = preset_plans(shape, sensitivities);
  if (best.empty() || presets.empty()) return "";
  const double low = std::max(pool.tail_kld - pool.tail_kld_stderr, pool.tail_kld / 100);  // the scale has no zero
  const double high = pool.tail_kld + pool.tail_kld_stderr;
  const bool is_measured = pool.tail_kld > 0, has_error = is_measured && pool.tail_kld_stderr >= 0;
  std::vector<double> bits = {pool.bits_per_value}, klds = {pool.expected_kld};
  for (const auto& [x, y] : best) bits.push_back(x), klds.push_back(y);
  for (const NamedPoint& preset : presets) bits.push_back(preset.point.first), klds.push_back(preset.point.second);
  if (is_measured) klds.push_back(pool.tail_kld);
  if (has_error) klds.push_back(low), klds.push_back(high);

  Plot plot("Size against expected KL divergence: plans, presets and this pool", bits_axis(bits),
            decades_axis("KL divergence", klds));
  plot.curve(best, "best");
  for (const auto& [x, y] : best) {
    plot.dot({x, y}, 2, "best", "a plan of " + short_number(x, 3) + " bits: " + short_number(y, 2));
  }
  for (const NamedPoint& preset : presets) {
    const auto& [x, y] = preset.point;
    plot.dot(preset.point, 4, "preset", preset.name + ": " + short_number(x, 3) + " bits, " + short_number(y, 2));
    plot.label(preset.point, Side::kRight, preset.name);
  }
  if (has_error) plot.error_bar(pool.bits_per_value, low, high, "measured");
  if (is_measured) {
    plot.dot({pool.bits_per_value, pool.tail_kld}, 5, "ring", "measured: " + short_number(pool.tail_kld, 2));
  }
  if (pool.expected_kld > 0) {
    plot.cross({pool.bits_per_value, pool.expected_kld}, "chosen", "expected: " + short_number(pool.expected_kld, 2));
  }
  return plot.svg();
}

}  // namespace polykv::cli
