#include "cli/runtime/retention/joint_plan.h"

#include <algorithm>
#include <limits>

#include "cli/runtime/bit_allocation.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

constexpr format::CodecId kMostKeyBits = 7, kMostValueBits = 8;

// One way to keep a head.
struct Option {
  double loss;
  std::uint64_t bytes;
  std::size_t policy, share;
  core::CodecPair codec;
};

// A position set takes a bitmap at most, and as ranges eight bytes each.
std::uint64_t set_bytes(const format::KvShape& shape, std::uint32_t kept, std::uint32_t all) {
  if (kept == all) return 0;
  return std::min<std::uint64_t>((shape.num_tokens + 7) / 8, std::uint64_t{8} * kept) + 16;
}

// The corners of the lower convex hull of (bytes, loss), smallest first: only these are ever cheapest.
std::vector<Option> hull_of(std::vector<Option> options) {
  std::sort(options.begin(), options.end(),
            [](const Option& a, const Option& b) { return a.bytes != b.bytes ? a.bytes < b.bytes : a.loss < b.loss; });
  std::vector<Option> hull;
  for (const Option& option : options) {
    if (!hull.empty() && option.loss >= hull.back().loss) continue;
    while (hull.size() >= 2) {
      const Option &a = hull[hull.size() - 2], &b = hull.back();
      const double ab = (a.loss - b.loss) * static_cast<double>(option.bytes - b.bytes);
      const double bc = (b.loss - option.loss) * static_cast<double>(b.bytes - a.bytes);
      if (ab > bc) break;  // b lies below the line from a to the new one
      hull.pop_back();
    }
    hull.push_back(option);
  }
  return hull;
}

std::vector<Option> options_of(const format::KvShape& shape, const JointTables& tables, std::size_t head) {
  const std::uint32_t all = shape.num_tokens - std::min(shape.num_tokens, format::kNumSinks);
  std::vector<Option> options;
  const std::size_t num_heads = tables.sensitivities.size();
  for (std::size_t share = 0; share < kKeptShares.size(); ++share) {
    // The policy that loses least at this share, the first of equal ones.
    std::size_t policy = 0;
    const auto lost = [&](std::size_t p) {
      return tables.drop_losses[(p * num_heads + head) * kKeptShares.size() + share];
    };
    for (std::size_t other = 1; other < tables.scores.size(); ++other)
      if (lost(other) < lost(policy)) policy = other;
    const std::uint32_t kept = kept_of_share(all, share);
    for (format::CodecId key = 1; key <= kMostKeyBits; ++key) {
      for (format::CodecId value = 1; value <= kMostValueBits; ++value) {
        const double rounding = tables.sensitivities[head].key * key_codec_loss(key) +
                                tables.sensitivities[head].value * value_codec_loss(value);
        options.push_back({rounding + lost(policy),
                           format::run_bytes(key, value, shape.head_dim, kept) + set_bytes(shape, kept, all),
                           policy,
                           share,
                           {key, value}});
      }
    }
  }
  return options;
}

// From a corner of a head's hull to the next.
struct Step {
  double gain;  // loss saved a byte
  std::size_t head, corner;
  std::uint64_t bytes;
};

std::vector<Step> steps_of(std::span<const std::vector<Option>> hulls) {
  std::vector<Step> steps;
  for (std::size_t head = 0; head < hulls.size(); ++head) {
    for (std::size_t corner = 1; corner < hulls[head].size(); ++corner) {
      const Option &from = hulls[head][corner - 1], &to = hulls[head][corner];
      steps.push_back(
          {(from.loss - to.loss) / static_cast<double>(to.bytes - from.bytes), head, corner, to.bytes - from.bytes});
    }
  }
  // Along a hull gains fall, so a head's steps stay in order.
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
  return steps;
}

format::PositionSet best_positions(std::span<const float> scores, std::uint32_t count) {
  std::vector<std::uint32_t> ranked = ranked_positions(scores);
  ranked.resize(count);
  std::sort(ranked.begin(), ranked.end());
  format::PositionSet set;
  for (const std::uint32_t position : ranked) {
    if (!set.ranges.empty() && set.ranges.back().end == position)
      ++set.ranges.back().end;
    else
      set.ranges.push_back({position, position + 1});
  }
  return set;
}

JointPlan plan_of(const format::KvShape& shape, const JointTables& tables, std::span<const Option> chosen) {
  const std::uint32_t all = shape.num_tokens - std::min(shape.num_tokens, format::kNumSinks);
  JointPlan plan;
  for (std::size_t head = 0; head < chosen.size(); ++head) {
    const Option& option = chosen[head];
    const auto scores = std::span(tables.scores[option.policy][head / shape.num_kv_heads].positions)
                            .subspan(head % shape.num_kv_heads * shape.num_tokens, shape.num_tokens);
    plan.codecs.push_back(option.codec);
    plan.kept.push_back(best_positions(scores, kept_of_share(all, option.share)));
    plan.expected_kld += kKldOfStream * option.loss;
  }
  return plan;
}

// Each head's ways to be kept.
class Choice {
 public:
  Choice(const format::KvShape& shape, const JointTables& tables) {
    for (std::size_t head = 0; head < tables.sensitivities.size(); ++head) {
      options_.push_back(options_of(shape, tables, head));
      hulls_.push_back(hull_of(options_.back()));
    }
    steps_ = steps_of(hulls_);
  }

  std::vector<Option> smallest() const {
    std::vector<Option> chosen;
    for (const std::vector<Option>& hull : hulls_) chosen.push_back(hull.front());
    return chosen;
  }

  // With so many bytes more than the smallest: steps up the hulls, best first, while they fit; a head stops at the
  // first that does not. What is left then goes to any option that saves most.
  std::vector<Option> with_bytes(std::uint64_t left) const {
    std::vector<Option> chosen = smallest();
    std::vector<bool> stopped(chosen.size(), false);
    for (const Step& step : steps_) {
      if (stopped[step.head] || step.bytes > left) {
        stopped[step.head] = true;
        continue;
      }
      chosen[step.head] = hulls_[step.head][step.corner];
      left -= step.bytes;
    }
    while (spend(chosen, left)) {
    }
    return chosen;
  }

 private:
  bool spend(std::vector<Option>& chosen, std::uint64_t& left) const {
    const Option* best = nullptr;
    std::size_t best_head = 0;
    for (std::size_t head = 0; head < chosen.size(); ++head) {
      for (const Option& option : options_[head]) {
        if (option.bytes > chosen[head].bytes + left || option.bytes < chosen[head].bytes) continue;
        const double saved = chosen[head].loss - option.loss;
        if (saved <= 0.0 || (best != nullptr && saved <= chosen[best_head].loss - best->loss)) continue;
        best = &option;
        best_head = head;
      }
    }
    if (best == nullptr) return false;
    left -= best->bytes - chosen[best_head].bytes;
    chosen[best_head] = *best;
    return true;
  }

  std::vector<std::vector<Option>> options_, hulls_;
  std::vector<Step> steps_;
};

}  // namespace

JointPlan plan_jointly(const format::KvShape& shape, const JointTables& tables, std::uint64_t kv_bytes) {
  const Choice choice(shape, tables);
  JointPlan plan = plan_of(shape, tables, choice.smallest());
  const std::uint64_t least = plan_kv_bytes(shape, plan.codecs, plan.kept);
  std::uint64_t room = kv_bytes - std::min(kv_bytes, least);
  // What position sets take is known when they are chosen; what they take too much is given back.
  while (room > 0) {
    JointPlan larger = plan_of(shape, tables, choice.with_bytes(room));
    const std::uint64_t bytes = plan_kv_bytes(shape, larger.codecs, larger.kept);
    if (bytes <= kv_bytes) return larger;
    room -= std::min(room, bytes - kv_bytes);
  }
  return plan;
}

}  // namespace polykv::runtime
