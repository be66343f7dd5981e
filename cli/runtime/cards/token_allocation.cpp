#include "cli/runtime/cards/token_allocation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "cli/runtime/bit_allocation.h"
#include "cli/runtime/cards/card_plan.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

using core::CodecPair;

constexpr CodecPair kExact{format::kCodecF16, format::kCodecF16};
constexpr std::uint32_t kSomeTokens = 256;
constexpr int kSteps = 40;  // of the search for a price: factors of 2, then the middle of what is left

// Most bytes first.
std::vector<CodecPair> menu_of(Grain grain) {
  if (grain == Grain::kPaper) return {kExact, {8, 8}, {4, 4}, {2, 2}};
  std::vector<CodecPair> menu = {kExact, {8, 8}, {7, 8}};
  for (format::CodecId bits = 7; bits >= 1; --bits) {
    menu.push_back({bits, bits});
    if (bits > 1) menu.push_back({bits, static_cast<format::CodecId>(bits - 1)});
    if (bits > 1) menu.push_back({static_cast<format::CodecId>(bits - 1), bits});
  }
  return menu;
}

double loss_of(const Sensitivity& token, CodecPair codec) {
  return kKldOfStream * (token.key * key_codec_loss(codec.key) + token.value * value_codec_loss(codec.value));
}

// Heads that have the same plan.
struct Group {
  std::size_t num_heads;
  std::vector<Sensitivity> tokens;        // sums over the heads
  std::vector<std::vector<double>> loss;  // [token][menu]
  std::vector<std::size_t> chosen;        // [token], index into the menu
};

class Allocation {
 public:
  Allocation(const format::KvShape& shape, const TokenSensitivities& sensitivities, Grain grain)
      : head_dim_(shape.head_dim), num_tokens_(shape.num_tokens), grain_(grain), menu_(menu_of(grain)) {
    for (const CodecPair codec : menu_)
      token_bytes_.push_back(static_cast<double>(run_bytes(codec, format::kTileTokens)) / format::kTileTokens);
    const bool heads_alike = grain == Grain::kTokens || grain == Grain::kPaper;
    const std::size_t group_heads = heads_alike ? sensitivities.size() : 1;
    for (std::size_t head = 0; head < sensitivities.size(); head += group_heads)
      add_group(std::span(sensitivities).subspan(head, group_heads));
  }

  // What each byte may cost at most in loss; the bytes of the plan that follows.
  std::size_t choose(double price) {
    std::size_t bytes = 0;
    for (Group& group : groups_) {
      grain_ == Grain::kHeads ? choose_for_head(group, price) : choose_by_token(group, price);
      for (std::size_t i = 0; i < menu_.size(); ++i) bytes += group.num_heads * run_bytes(menu_[i], count(group, i));
    }
    return bytes;
  }

  double loss() const {
    double sum = 0.0;
    for (const Group& group : groups_)
      for (std::size_t t = 0; t < num_tokens_; ++t) sum += group.loss[t][group.chosen[t]];
    return sum;
  }

  // No byte saves as much as this.
  double most_price() const {
    double sum = 1e-30;
    for (const Group& group : groups_)
      for (const std::vector<double>& loss : group.loss) sum += *std::max_element(loss.begin(), loss.end());
    return sum;
  }

  double loss_of_all(CodecPair codec) const {
    double sum = 0.0;
    for (const Group& group : groups_)
      for (const Sensitivity& token : group.tokens) sum += loss_of(token, codec);
    return sum;
  }

  TokenPlan plan() const {
    TokenPlan plan;
    for (const Group& group : groups_) {
      std::vector<CodecPair> of_head;
      for (const std::size_t chosen : group.chosen) of_head.push_back(menu_[chosen]);
      plan.insert(plan.end(), group.num_heads, of_head);
    }
    return plan;
  }

 private:
  std::size_t run_bytes(CodecPair codec, std::size_t num_tokens) const {
    return num_tokens == 0 ? 0 : format::run_bytes(codec.key, codec.value, head_dim_, num_tokens);
  }
  static std::size_t count(const Group& group, std::size_t index) {
    return static_cast<std::size_t>(std::count(group.chosen.begin(), group.chosen.end(), index));
  }

  void add_group(std::span<const std::vector<Sensitivity>> heads) {
    Group group{heads.size(), {}, {}, std::vector<std::size_t>(num_tokens_)};
    for (std::size_t t = 0; t < num_tokens_; ++t) {
      Sensitivity sum;
      for (const std::vector<Sensitivity>& head : heads) {
        sum.key += head[t].key;
        sum.value += head[t].value;
      }
      std::vector<double>& loss = group.loss.emplace_back();
      for (const CodecPair codec : menu_) loss.push_back(loss_of(sum, codec));
      group.tokens.push_back(sum);
    }
    groups_.push_back(std::move(group));
  }

  void choose_for_head(Group& group, double price) const {
    std::vector<double> cost;
    for (std::size_t i = 0; i < menu_.size(); ++i) {
      cost.push_back(price * static_cast<double>(run_bytes(menu_[i], num_tokens_)));
      for (const std::vector<double>& loss : group.loss) cost.back() += loss[i];
    }
    const auto best = static_cast<std::size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin());
    std::fill(group.chosen.begin(), group.chosen.end(), best);
  }

  void choose_by_token(Group& group, double price) const {
    const double token_price = price * static_cast<double>(group.num_heads);
    for (std::size_t t = 0; t < num_tokens_; ++t) {
      const auto cost = [&](std::size_t i) { return group.loss[t][i] + token_price * token_bytes_[i]; };
      group.chosen[t] = 0;
      for (std::size_t i = 1; i < menu_.size(); ++i)
        if (cost(i) < cost(group.chosen[t])) group.chosen[t] = i;
    }
    for (std::size_t i = 0; i < menu_.size(); ++i) fill_tiles(group, i);
  }

  // The last tile's free places go to the tokens of fewer bits that gain most.
  void fill_tiles(Group& group, std::size_t index) const {
    const std::size_t used = count(group, index) % format::kTileTokens;
    if (used == 0) return;
    std::vector<std::size_t> lower;
    for (std::size_t t = 0; t < num_tokens_; ++t)
      if (group.chosen[t] > index) lower.push_back(t);
    const std::size_t num_free = std::min(lower.size(), format::kTileTokens - used);
    const auto gain = [&](std::size_t t) { return group.loss[t][group.chosen[t]] - group.loss[t][index]; };
    std::stable_sort(lower.begin(), lower.end(), [&](std::size_t a, std::size_t b) { return gain(a) > gain(b); });
    for (std::size_t i = 0; i < num_free; ++i) group.chosen[lower[i]] = index;
  }

  std::size_t head_dim_, num_tokens_;
  Grain grain_;
  std::vector<CodecPair> menu_;
  std::vector<double> token_bytes_;  // [menu], of a head's token in a full tile
  std::vector<Group> groups_;
};

// Of the whole bits next to `bits`, by as much as it is between them.
std::uint64_t uniform_bytes(const format::KvShape& shape, double bits) {
  const auto all_bytes = [&](format::CodecId codec) {
    return std::uint64_t{shape.num_layers} * shape.num_kv_heads *
           format::run_bytes(codec, codec, shape.head_dim, shape.num_tokens);
  };
  const bool above_whole = bits > 8.0;  // no codec has 9 to 15 bits
  const auto low = static_cast<format::CodecId>(above_whole ? 8.0 : std::floor(bits));
  const auto high = static_cast<format::CodecId>(above_whole ? format::kCodecF16 : low + (low < 8));
  const double share = high == low ? 0.0 : (bits - low) / (high - low);
  return all_bytes(low) + static_cast<std::uint64_t>(share * static_cast<double>(all_bytes(high) - all_bytes(low)));
}

}  // namespace

TokenPlan allocate_tokens(const format::KvShape& shape, const TokenSensitivities& sensitivities, double bits,
                          Grain grain) {
  Allocation allocation(shape, sensitivities, grain);
  const std::uint64_t most_bytes = uniform_bytes(shape, bits);
  double low = 0.0, high = allocation.most_price();  // prices: too many bytes, few enough
  std::optional<double> best_price;
  double best_loss = 0.0;
  for (int step = 0; step < kSteps; ++step) {
    const double price = low == 0.0 ? high / 2 : std::sqrt(low * high);
    if (allocation.choose(price) > most_bytes) {
      low = price;
      continue;
    }
    high = price;
    // Filling tiles makes bytes no monotonous function of the price: the last plan need not be the best one.
    if (!best_price || allocation.loss() < best_loss) {
      best_price = price;
      best_loss = allocation.loss();
    }
  }
  // Prices reach the convex hull alone. Where few tokens leave little choice, the same for all may be better.
  const auto whole = static_cast<format::CodecId>(bits);
  if (static_cast<double>(whole) == bits && (whole <= 8 || whole == format::kCodecF16) &&
      !(best_price && best_loss <= allocation.loss_of_all({whole, whole})))
    return uniform_token_plan(shape, {whole, whole});
  allocation.choose(best_price.value_or(high));
  return allocation.plan();
}

TokenPlan allocate_heads(const format::KvShape& shape, std::span<const Sensitivity> heads, double bits) {
  format::KvShape some = shape;  // of which there are enough to know what one costs
  some.num_tokens = std::min(shape.num_tokens, kSomeTokens);
  TokenSensitivities sensitivities;
  for (const Sensitivity& head : heads) sensitivities.emplace_back(some.num_tokens, head);
  TokenPlan plan = allocate_tokens(some, sensitivities, bits, Grain::kHeads);
  for (auto& head : plan) head.resize(shape.num_tokens, head.front());
  return plan;
}

}  // namespace polykv::runtime
