#include "cli/runtime/retention/selection.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace polykv::runtime {
namespace {

constexpr std::uint32_t kChunkTokens = 20;

// Different in kind, and none of them slow.
constexpr const char* kAutoPolicies[] = {"observed", "keydiff", "snapkv", "streamingllm"};

constexpr double kSureShare = 0.2;  // of a head's budget, with by_head
constexpr double kNoSureShare = 0.0;

// 29 % of 100 are 29, though 29 / 100.0 * 100 is less.
constexpr double kRounding = 1e-6;

// Positions that are kept in any case: a bool each.
std::vector<bool> sure_positions(std::uint32_t num_tokens, std::uint32_t window) {
  std::vector<bool> sure(num_tokens, false);
  std::fill_n(sure.begin(), std::min(num_tokens, format::kNumSinks), true);
  std::fill(sure.end() - std::min(num_tokens, window), sure.end(), true);
  return sure;
}

// What may be chosen, best first: single positions or chunks of them, which are kept whole as far as there is room.
struct Candidate {
  float score;
  std::uint32_t head, first, end;
};

std::vector<Candidate> candidates_of(std::span<const float> scores, std::uint32_t head, const std::vector<bool>& sure,
                                     std::uint32_t chunk) {
  std::vector<Candidate> candidates;
  for (std::uint32_t first = 0; first < scores.size(); first += chunk) {
    const auto end = std::min<std::uint32_t>(first + chunk, static_cast<std::uint32_t>(scores.size()));
    if (std::all_of(sure.begin() + first, sure.begin() + end, [](bool is_sure) { return is_sure; })) continue;
    const float sum = std::accumulate(scores.begin() + first, scores.begin() + end, 0.0f);
    candidates.push_back({sum / static_cast<float>(end - first), head, first, end});
  }
  return candidates;
}

void sort_best_first(std::vector<Candidate>& candidates) {
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.first != b.first ? a.first > b.first : a.head < b.head;
  });
}

format::PositionSet set_of(const std::vector<bool>& kept) {
  format::PositionSet set;
  for (std::uint32_t t = format::kNumSinks; t < kept.size(); ++t) {
    if (!kept[t]) continue;
    if (!set.ranges.empty() && set.ranges.back().end == t)
      ++set.ranges.back().end;
    else
      set.ranges.push_back({t, t + 1});
  }
  return set;
}

// The last positions of a head that are kept in any case, of `budget` that it keeps.
std::uint32_t recent_positions(const RetentionPolicy& policy, std::uint32_t budget) {
  const auto share = static_cast<std::uint32_t>(policy.recent_share * budget);
  return std::max(policy.window, std::min(share, budget - std::min(budget, format::kNumSinks)));
}

// Heads that share a budget, of one layer or of all: `budget` positions a head on average.
class Selection {
 public:
  // scores [head][num_tokens]
  Selection(std::uint32_t num_tokens, std::span<const float> scores, const RetentionChoice& choice,
            const RetentionPolicy& policy, std::uint32_t budget)
      : num_tokens_(num_tokens),
        scores_(scores),
        chunk_(choice.by_chunk ? kChunkTokens : 1),
        budget_(budget),
        kept_(scores.size() / num_tokens, sure_positions(num_tokens, recent_positions(policy, budget))) {}

  void keep_equal() {
    for (std::uint32_t head = 0; head < kept_.size(); ++head) fill(head, budget_);
  }

  // `sure_share` of the budget for each head, the rest for the best of all heads.
  void keep_best(double sure_share) {
    for (std::uint32_t head = 0; head < kept_.size(); ++head)
      fill(head, static_cast<std::uint32_t>(sure_share * budget_));
    std::vector<Candidate> all;
    std::uint64_t left = std::uint64_t{budget_} * kept_.size();
    for (std::uint32_t head = 0; head < kept_.size(); ++head) {
      const std::vector<Candidate> candidates = of_head(head);
      all.insert(all.end(), candidates.begin(), candidates.end());
      left -= std::min<std::uint64_t>(left, count(head));
    }
    sort_best_first(all);
    for (const Candidate& candidate : all) take(candidate, left);
  }

  const std::vector<bool>& kept(std::uint32_t head) const { return kept_[head]; }

 private:
  std::uint64_t count(std::uint32_t head) const {
    return static_cast<std::uint64_t>(std::count(kept_[head].begin(), kept_[head].end(), true));
  }
  std::vector<Candidate> of_head(std::uint32_t head) const {
    return candidates_of(scores_.subspan(std::size_t{head} * num_tokens_, num_tokens_), head, kept_[head], chunk_);
  }
  void fill(std::uint32_t head, std::uint32_t budget) {
    std::uint64_t left = budget - std::min<std::uint64_t>(budget, count(head));
    std::vector<Candidate> candidates = of_head(head);
    sort_best_first(candidates);
    for (const Candidate& candidate : candidates) take(candidate, left);
  }
  void take(const Candidate& candidate, std::uint64_t& left) {
    for (std::uint32_t t = candidate.first; t < candidate.end && left > 0; ++t) {
      if (kept_[candidate.head][t]) continue;
      kept_[candidate.head][t] = true;
      --left;
    }
  }

  std::uint32_t num_tokens_;
  std::span<const float> scores_;
  std::uint32_t chunk_, budget_;
  std::vector<std::vector<bool>> kept_;  // [kv_head][position]
};

KeptPositions select_globally(const format::KvShape& shape, std::span<const RetentionScores> layers,
                              const RetentionChoice& choice) {
  std::vector<float> all;
  for (const RetentionScores& scores : layers) all.insert(all.end(), scores.positions.begin(), scores.positions.end());
  Selection selection(shape.num_tokens, all, choice, *choice.policy, kept_tokens(choice, shape.num_tokens));
  selection.keep_best(choice.by_head ? kSureShare : kNoSureShare);
  KeptPositions kept;
  for (std::uint32_t head = 0; head < shape.num_layers * shape.num_kv_heads; ++head)
    kept.push_back(set_of(selection.kept(head)));
  return kept;
}

// What a head keeps however little was asked for.
std::uint32_t least_tokens(const RetentionChoice& choice, std::uint32_t num_tokens) {
  return std::min(num_tokens, choice.by_layer ? choice.by_layer->floor : format::kNumSinks + choice.policy->window);
}

std::vector<std::uint32_t> budgets_of(const format::KvShape& shape, std::span<const RetentionScores> layers,
                                      const RetentionChoice& choice) {
  const std::uint64_t total = std::uint64_t{kept_tokens(choice, shape.num_tokens)} * shape.num_layers;
  const std::uint32_t least = least_tokens(choice, shape.num_tokens);
  if (choice.by_layer) return share_out(total, choice.by_layer->weights, least, shape.num_tokens);
  std::vector<double> weights;
  for (const RetentionScores& scores : layers) weights.push_back(scores.layer_weight);
  return choice.policy->share_budget(total, weights, least, shape.num_tokens);
}

}  // namespace

std::vector<const RetentionPolicy*> RetentionChoice::policies(std::uint32_t layer) const {
  if (by_layer) return {by_layer->policies[layer]};
  if (!is_auto) return keeps_all() ? std::vector<const RetentionPolicy*>() : std::vector{policy};
  std::vector<const RetentionPolicy*> all;
  for (const char* name : kAutoPolicies) all.push_back(find_retention_policy(name));
  return all;
}

bool RetentionChoice::needs_queries() const {
  const auto all = by_layer ? by_layer->policies : policies();
  return std::any_of(all.begin(), all.end(), [](const RetentionPolicy* one) { return one->needs_queries; });
}

std::optional<RetentionChoice> parse_retention(std::string_view name) {
  RetentionChoice choice;
  if (name == "auto") {
    choice.is_auto = true;
    return choice;
  }
  const std::size_t plus = name.find('+');
  choice.policy = find_retention_policy(name.substr(0, plus));
  if (choice.policy == nullptr) return std::nullopt;
  std::string_view rest = plus == std::string_view::npos ? std::string_view() : name.substr(plus);
  for (const auto& [modifier, flag] : {std::pair{"+ada", &choice.by_head}, {"+chunk", &choice.by_chunk}}) {
    if (!rest.starts_with(modifier)) continue;
    *flag = true;
    rest.remove_prefix(std::string_view(modifier).size());
  }
  return rest.empty() ? std::optional(choice) : std::nullopt;
}

bool parse_keep(std::string_view text, RetentionChoice& choice) {
  const bool is_share = text.ends_with('%');
  if (is_share) text.remove_suffix(1);
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !(number > 0.0)) return false;
  if (is_share) {
    if (number > 100.0) return false;
    choice.keep_tokens.reset();
    choice.keep_share = number / 100.0;
    return true;
  }
  if (number != std::floor(number) || number > 4294967295.0) return false;
  choice.keep_share.reset();
  choice.keep_tokens = static_cast<std::uint32_t>(number);
  return true;
}

std::string retention_name(const RetentionChoice& choice) {
  std::string name = choice.by_layer ? choice.by_layer->name : choice.is_auto ? "auto" : choice.policy->name;
  if (choice.by_head) name += "+ada";
  if (choice.by_chunk) name += "+chunk";
  if (choice.keep_tokens) return name + " " + std::to_string(*choice.keep_tokens) + " tokens";
  if (choice.is_joint()) return name + " with bits";
  char share[32];
  std::snprintf(share, sizeof share, " %g%%", 100.0 * choice.keep_share.value_or(1.0));
  return name + share;
}

RetentionChoice choice_of_layer(const RetentionChoice& choice, std::uint32_t layer, std::uint32_t budget) {
  RetentionChoice result = choice;
  if (choice.by_layer)
    result.by_layer = LayerPolicies{"", {choice.by_layer->policies[layer]}, {1.0}, choice.by_layer->floor};
  result.keep_share.reset();
  result.keep_tokens = budget;
  return result;
}

std::vector<bool> kept_flags(const format::PositionSet& kept, std::uint32_t num_tokens) {
  std::vector<bool> flags(num_tokens, false);
  std::fill_n(flags.begin(), std::min(num_tokens, format::kNumSinks), true);
  for (const format::PositionRange range : kept.ranges)
    std::fill(flags.begin() + std::min(range.begin, num_tokens), flags.begin() + std::min(range.end, num_tokens), true);
  return flags;
}

std::uint32_t kept_tokens(const RetentionChoice& choice, std::uint32_t num_tokens) {
  const std::uint32_t least = least_tokens(choice, num_tokens);
  const auto share = static_cast<std::uint32_t>(choice.keep_share.value_or(1.0) * num_tokens + kRounding);
  return std::clamp(choice.keep_tokens.value_or(share), least, num_tokens);
}

KeptPositions select_positions(const format::KvShape& shape, std::span<const RetentionScores> layers,
                               const RetentionChoice& choice) {
  if (!choice.by_layer && choice.policy->is_global) return select_globally(shape, layers, choice);
  const std::vector<std::uint32_t> budgets = budgets_of(shape, layers, choice);
  KeptPositions kept;
  for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
    Selection selection(shape.num_tokens, layers[layer].positions, choice, choice.policy_of(layer), budgets[layer]);
    if (choice.by_head)
      selection.keep_best(kSureShare);
    else
      selection.keep_equal();
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) kept.push_back(set_of(selection.kept(head)));
  }
  return kept;
}

}  // namespace polykv::runtime
