#include "cli/runtime/cards/card_plan.h"

#include <charconv>
#include <cstdio>

namespace polykv::runtime {
namespace {

constexpr std::pair<std::string_view, CardBits::Kind> kByToken[] = {{"auto:", CardBits::Kind::kMixed},
                                                                    {"learned:", CardBits::Kind::kLearned}};

std::optional<double> parse_number(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

std::optional<CardBits> parse_card_bits(std::string_view text) {
  for (const auto& [prefix, kind] : kByToken) {
    if (!text.starts_with(prefix)) continue;
    const auto bits = parse_number(text.substr(prefix.size()));
    return bits && *bits >= 2 && *bits <= 16 ? std::optional(CardBits{kind, *bits}) : std::nullopt;
  }
  const auto bits = parse_number(text);
  if (!bits) return std::nullopt;
  const bool known = *bits == 16 || (*bits >= 1 && *bits <= 8 && *bits == static_cast<int>(*bits));
  return known ? std::optional(CardBits{CardBits::Kind::kUniform, *bits}) : std::nullopt;
}

std::string card_bits_name(const CardBits& bits) {
  if (bits.kind == CardBits::Kind::kAsBase) return "base";
  char number[32];
  std::snprintf(number, sizeof number, "%g", bits.bits);
  for (const auto& [prefix, kind] : kByToken)
    if (bits.kind == kind) return std::string(prefix) + number;
  return number;
}

TokenPlan uniform_token_plan(const format::KvShape& shape, core::CodecPair codec) {
  return TokenPlan(std::size_t{shape.num_layers} * shape.num_kv_heads,
                   std::vector<core::CodecPair>(shape.num_tokens, codec));
}

TokenPlan token_plan_of(const format::PoolReader& pool) {
  TokenPlan plan;
  for (const std::vector<format::Run>& runs : pool.layout().runs) {
    std::vector<core::CodecPair>& tokens = plan.emplace_back(pool.shape().num_tokens, core::kDefaultCodec);
    for (const format::Run& run : runs)
      for (const format::PositionRange range : pool.layout().position_sets[run.position_set].ranges)
        for (std::uint32_t at = range.begin; at < range.end; ++at)
          tokens[at - pool.first_position()] = {run.key_codec, run.value_codec};
  }
  return plan;
}

TokenPlan token_plan_as_base(const format::PoolReader& base, std::uint32_t num_tokens) {
  TokenPlan plan;
  for (const std::vector<format::Run>& runs : base.layout().runs) {
    const core::CodecPair codec =
        runs.empty() ? core::kDefaultCodec : core::CodecPair{runs[0].key_codec, runs[0].value_codec};
    plan.emplace_back(num_tokens, codec);
  }
  return plan;
}

}  // namespace polykv::runtime
