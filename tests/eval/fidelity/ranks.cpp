#include "tests/eval/fidelity/ranks.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/runtime/bit_allocation.h"

namespace polykv::eval {
namespace {

using format::Status;
using nlohmann::ordered_json;

const char* kind_name(const RankedItem& item) { return item.is_key ? "keys" : "values"; }

// From 1; equal numbers share the mean of theirs.
std::vector<double> ranks_of(std::span<const double> numbers) {
  std::vector<std::size_t> order(numbers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return numbers[a] < numbers[b]; });
  std::vector<double> ranks(numbers.size());
  for (std::size_t begin = 0, end; begin < order.size(); begin = end) {
    end = begin + 1;
    while (end < order.size() && numbers[order[end]] == numbers[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + 1 + end) / 2.0;
  }
  return ranks;
}

// Indices of the `count` largest numbers, in ascending order; of equal ones the first.
std::vector<std::size_t> largest(std::span<const double> numbers, std::size_t count) {
  std::vector<std::size_t> order(numbers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return numbers[a] > numbers[b]; });
  order.resize(std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

double share_of_largest(std::span<const double> numbers, std::size_t count) {
  double sum = 0.0;
  for (const std::size_t i : largest(numbers, count)) sum += numbers[i];
  return sum / std::accumulate(numbers.begin(), numbers.end(), 0.0);
}

Status measure_item(const Protocol& protocol, const Window& window, RankedItem& item) {
  const format::KvShape& shape = window.text.shape();
  tests::CodecsOfHeads plan = tests::same_codec(shape, {format::kCodecF16, format::kCodecF16});
  core::CodecPair& pair = plan[std::size_t{item.layer} * shape.num_kv_heads + item.kv_head];
  (item.is_key ? pair.key : pair.value) = kRankedBits;
  item.estimate = runtime::expected_kld(window.sensitivities, plan);
  POLYKV_TRY(const tests::QuantizedPool pool,
             tests::QuantizedPool::make(window.text.kv(), shape, std::move(plan), window.weights,
                                        tests::QuantizedPool::Means::kAlways));  // as in every plan
  POLYKV_TRY(const std::vector<float> logits, window.text.logits(pool, kScoredTokens));
  runtime::DivergenceMeter meter;
  meter.add(window.reference, logits, window.text.targets(), *protocol.workers);
  const runtime::Divergence divergence = meter.summary();
  item.exact = divergence.kld_mean;
  item.exact_stderr = divergence.kld_stderr;
  return {};
}

// The agreement over one kind of item, or over both.
struct Group {
  const char* name;
  RankAgreement agreement;
};
std::vector<Group> agreements_of(std::span<const RankedItem> items) {
  std::vector<Group> groups;
  for (const char* name : {"all", "keys", "values"}) {
    std::vector<double> exact, estimate;
    for (const RankedItem& item : items) {
      if (std::string_view(name) != "all" && std::string_view(name) != kind_name(item)) continue;
      exact.push_back(item.exact);
      estimate.push_back(item.estimate);
    }
    groups.push_back({name, compare_ranks(exact, estimate)});
  }
  return groups;
}

}  // namespace

format::Result<std::vector<RankedItem>> measure_ranks(const Protocol& protocol, std::size_t index) {
  POLYKV_TRY(const Window window, open_window(protocol, index, {.sensitivities = true, .policies = {}}));
  const format::KvShape& shape = window.text.shape();
  std::vector<RankedItem> items;
  for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer)
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head)
      for (const bool is_key : {true, false}) items.push_back({layer, head, is_key});
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::string name =
        formatted("layer %u, kv_head %u, %s", items[i].layer, items[i].kv_head, kind_name(items[i]));
    if (protocol.say) protocol.say(formatted("%zu of %zu: %s", i + 1, items.size(), name.c_str()));
    if (const Status status = measure_item(protocol, window, items[i]); !status)
      return format::Error(status.error().code, name + ": " + status.error().message);
  }
  return items;
}

double spearman(std::span<const double> a, std::span<const double> b) {
  const std::vector<double> x = ranks_of(a), y = ranks_of(b);
  const double mean = (static_cast<double>(x.size()) + 1.0) / 2.0;  // whether or not there are ties
  double xx = 0.0, yy = 0.0, xy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
    xy += (x[i] - mean) * (y[i] - mean);
  }
  return xy / std::sqrt(xx * yy);
}

RankAgreement compare_ranks(std::span<const double> exact, std::span<const double> estimate) {
  const std::size_t num_worst = exact.size() / 5;
  const std::vector<std::size_t> a = largest(exact, num_worst), b = largest(estimate, num_worst);
  std::vector<std::size_t> common;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
  return {exact.size(),
          spearman(exact, estimate),
          num_worst,
          common.size(),
          share_of_largest(exact, kWorstHeads),
          share_of_largest(estimate, kWorstHeads)};
}

std::string ranks_as_text(const Setting& setting, std::span<const RankedItem> items) {
  std::string out = formatted("%s on %s, kernels %s, prefill %s\n", setting.model.c_str(), setting.text.c_str(),
                              setting.kernels.c_str(), setting.prefill.c_str());
  out += formatted(
      "tokens %zu to %zu compressed, the next %zu scored; one head's keys or values in %u bits, all else "
      "float16\n",
      setting.offsets.front(), setting.offsets.front() + setting.prefix_tokens - 1, setting.scored_tokens,
      unsigned{kRankedBits});
  out += formatted("%5s %7s %-6s  %9s %9s  %9s\n", "layer", "kv_head", "of", "KLD", "+-", "estimate");
  std::vector<RankedItem> sorted(items.begin(), items.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const RankedItem& a, const RankedItem& b) { return a.exact > b.exact; });
  for (const RankedItem& item : sorted)
    out += formatted("%5u %7u %-6s  %.7f %.7f  %.7f\n", item.layer, item.kv_head, kind_name(item), item.exact,
                     item.exact_stderr, item.estimate);
  out += formatted("\n%-6s %5s  %8s  %15s  %20s\n", "", "items", "Spearman", "worst in common",
                   formatted("%zu worst: KLD, est.", kWorstHeads).c_str());
  for (const Group& group : agreements_of(items)) {
    const RankAgreement& a = group.agreement;
    out += formatted("%-6s %5zu  %8.3f  %15s  %20s\n", group.name, a.num_items, a.spearman,
                     formatted("%zu of %zu", a.num_common, a.num_worst).c_str(),
                     formatted("%.1f %%, %.1f %%", 100.0 * a.exact_share, 100.0 * a.estimated_share).c_str());
  }
  return out;
}

std::string ranks_as_json(const Setting& setting, std::span<const RankedItem> items) {
  ordered_json json = {{"schema", "polykv.ranks/1"},
                       {"model", setting.model},
                       {"text", setting.text},
                       {"prefill", setting.prefill},
                       {"kernels", setting.kernels},
                       {"offset", setting.offsets.front()},
                       {"prefix_tokens", setting.prefix_tokens},
                       {"scored_tokens", setting.scored_tokens},
                       {"bits", kRankedBits},
                       {"items", ordered_json::array()},
                       {"agreement", ordered_json::object()}};
  for (const RankedItem& item : items)
    json["items"].push_back({{"layer", item.layer},
                             {"kv_head", item.kv_head},
                             {"kind", kind_name(item)},
                             {"kld_mean", item.exact},
                             {"kld_stderr", item.exact_stderr},
                             {"estimate", item.estimate}});
  for (const Group& group : agreements_of(items)) {
    const RankAgreement& a = group.agreement;
    json["agreement"][group.name] = {{"items", a.num_items},
                                     {"spearman", a.spearman},
                                     {"worst", a.num_worst},
                                     {"worst_in_common", a.num_common},
                                     {"worst_heads", kWorstHeads},
                                     {"kld_share", a.exact_share},
                                     {"estimate_share", a.estimated_share}};
  }
  return json.dump(1) + "\n";
}

}  // namespace polykv::eval
