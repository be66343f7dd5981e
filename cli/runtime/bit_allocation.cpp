#include "cli/runtime/bit_allocation.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <queue>
#include <vector>

#include "format/bytes.h"
#include "format/page_layout.h"
#include "format/section.h"

namespace polykv::runtime {
namespace {

using core::CodecPair;
using format::CodecId;

// By bits; 0 is no codec.
constexpr std::array<double, 9> kKeyLoss = {1.0, 0.80, 0.13, 0.0240, 0.0073, 0.0019, 0.00069, 0.00034, 0.00003};
constexpr std::array<double, 9> kValueLoss = {1.0, 0.55, 0.098, 0.0240, 0.0063, 0.0017, 0.00069, 0.00034, 0.000089};

constexpr CodecPair kFewestBits{1, 1};
constexpr CodecPair kMostBits{7, 8};  // k8, not rotated, is larger than f16 scales make k7 and no better in all heads

// One head's keys or one head's values on the way up.
struct Upgrade {
  double gain;  // loss saved a byte
  std::size_t head;
  bool is_key;
  CodecId from, to;

  // The greatest gain first; of equal ones the first head, its keys before its values.
  bool operator<(const Upgrade& other) const {
    if (gain != other.gain) return gain < other.gain;
    if (head != other.head) return head > other.head;
    return !is_key && other.is_key;
  }
};

class Allocation {
 public:
  Allocation(const format::KvShape& shape, std::span<const Sensitivity> sensitivities, const KeptPositions& kept)
      : sensitivities_(sensitivities), head_dim_(shape.head_dim), plan_(uniform_plan(shape, kFewestBits)) {
    for (std::size_t head = 0; head < plan_.size(); ++head) num_positions_.push_back(num_kept(shape, kept, head));
    for (std::size_t head = 0; head < plan_.size(); ++head)
      for (const bool is_key : {true, false}) offer(head, is_key);
  }

  // Takes upgrades, best first, while `wants(bytes more, loss less)` says yes; one it does not want is passed over and
  // smaller ones of the same item are tried.
  void run(const std::function<bool(std::uint64_t, double)>& wants) {
    while (!queue_.empty()) {
      const Upgrade best = queue_.top();
      queue_.pop();
      if (take(best, wants)) offer(best.head, best.is_key);
    }
  }

  const CodecPlan& plan() const { return plan_; }

 private:
  std::uint64_t bytes(std::size_t head, CodecPair codec) const {
    return format::run_bytes(codec.key, codec.value, head_dim_, num_positions_[head]);
  }
  CodecPair upgraded(std::size_t head, bool is_key, CodecId codec) const {
    CodecPair pair = plan_[head];
    (is_key ? pair.key : pair.value) = codec;
    return pair;
  }
  double loss(std::size_t head, bool is_key, CodecId codec) const {
    return kKldOfStream * (is_key ? sensitivities_[head].key * key_codec_loss(codec)
                                  : sensitivities_[head].value * value_codec_loss(codec));
  }
  double saved(const Upgrade& upgrade) const {
    return loss(upgrade.head, upgrade.is_key, upgrade.from) - loss(upgrade.head, upgrade.is_key, upgrade.to);
  }
  std::uint64_t added(const Upgrade& upgrade) const {
    return bytes(upgrade.head, upgraded(upgrade.head, upgrade.is_key, upgrade.to)) -
           bytes(upgrade.head, plan_[upgrade.head]);
  }

  // The next corner of the item's convex hull: the codec above that saves most a byte, the smallest of equal ones.
  void offer(std::size_t head, bool is_key) {
    const CodecId now = is_key ? plan_[head].key : plan_[head].value;
    std::optional<Upgrade> best;
    for (CodecId to = now + 1; to <= (is_key ? kMostBits.key : kMostBits.value); ++to) {
      Upgrade upgrade{0.0, head, is_key, now, to};
      const std::uint64_t more = added(upgrade);
      upgrade.gain = saved(upgrade) / static_cast<double>(std::max<std::uint64_t>(more, 1));
      if (!best || upgrade.gain > best->gain) best = upgrade;
    }
    if (best) queue_.push(*best);
  }

  bool take(Upgrade upgrade, const std::function<bool(std::uint64_t, double)>& wants) {
    for (; upgrade.to > upgrade.from; --upgrade.to) {
      if (!wants(added(upgrade), saved(upgrade))) continue;
      plan_[upgrade.head] = upgraded(upgrade.head, upgrade.is_key, upgrade.to);
      return true;
    }
    return false;
  }

  std::span<const Sensitivity> sensitivities_;
  std::size_t head_dim_;
  std::vector<std::uint32_t> num_positions_;  // kept, without the sinks
  CodecPlan plan_;
  std::priority_queue<Upgrade> queue_;
};

}  // namespace

double key_codec_loss(CodecId codec) { return codec < kKeyLoss.size() ? kKeyLoss[codec] : 0.0; }
double value_codec_loss(CodecId codec) { return codec < kValueLoss.size() ? kValueLoss[codec] : 0.0; }

double expected_kld(std::span<const Sensitivity> sensitivities, const CodecPlan& plan) {
  double sum = 0.0;
  for (std::size_t head = 0; head < plan.size(); ++head)
    sum += sensitivities[head].key * key_codec_loss(plan[head].key) +
           sensitivities[head].value * value_codec_loss(plan[head].value);
  return kKldOfStream * sum;
}

std::uint64_t plan_kv_bytes(const format::KvShape& shape, const CodecPlan& plan, const KeptPositions& kept) {
  const std::uint64_t num_heads = std::uint64_t{shape.num_layers} * shape.num_kv_heads;
  const std::uint32_t num_sinks = std::min(shape.num_tokens, format::kNumSinks);
  const format::Layout layout = plan_layout(shape, plan, kept);
  std::uint64_t pages = 0;
  for (std::size_t head = 0; head < plan.size(); ++head)
    pages += format::run_bytes(plan[head].key, plan[head].value, shape.head_dim, num_kept(shape, kept, head));
  const std::uint64_t sinks = num_heads * 2 * num_sinks * shape.head_dim * 2;
  const std::uint64_t means = removes_means(layout) ? num_heads * format::kMeanVectors * shape.head_dim * 2 : 0;
  std::uint64_t sum = 0;
  for (const std::uint64_t bytes : {pages, sinks, means, std::uint64_t{layout.serialize(shape).size()}})
    sum += *format::checked_align(bytes, format::kSectionAlignment);
  return sum;
}

CodecPlan allocate_bytes(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                         std::uint64_t kv_bytes, const KeptPositions& kept) {
  Allocation allocation(shape, sensitivities, kept);
  const std::uint64_t least = plan_kv_bytes(shape, allocation.plan(), kept);
  std::uint64_t left = kv_bytes - std::min(kv_bytes, least);
  allocation.run([&left](std::uint64_t more, double) {
    if (more > left) return false;
    left -= more;
    return true;
  });
  return allocation.plan();
}

CodecPlan allocate_loss(const format::KvShape& shape, std::span<const Sensitivity> sensitivities, double kld,
                        const KeptPositions& kept) {
  Allocation allocation(shape, sensitivities, kept);
  double loss = expected_kld(sensitivities, allocation.plan());
  allocation.run([&](std::uint64_t, double less) {
    if (loss <= kld) return false;
    loss -= less;
    return true;
  });
  return allocation.plan();
}

}  // namespace polykv::runtime
