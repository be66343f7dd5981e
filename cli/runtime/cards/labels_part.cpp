#include "cli/runtime/cards/labels_part.h"

#include <limits>

#include "cli/runtime/json_place.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using nlohmann::ordered_json;

constexpr std::string_view kSchema = "polykv.card-labels/", kVersion = "1";
constexpr double kLargest = 1e6;

ordered_json card_json(std::span<const LabelledToken> card) {
  ordered_json tokens = ordered_json::array();
  for (const LabelledToken& token : card) {
    ordered_json numbers = token.features;
    numbers.push_back(token.kld);
    tokens.push_back(std::move(numbers));
  }
  return tokens;
}

Result<LabelledToken> read_token(const JsonPlace& place) {
  POLYKV_TRY(const std::vector<double> numbers, place.numbers(-kLargest, kLargest));
  if (numbers.size() != kNumFeatures + 1) return place.error("are not 7 numbers");
  LabelledToken token;
  std::copy_n(numbers.begin(), kNumFeatures, token.features.begin());
  token.kld = numbers.back();
  if (token.kld < std::numeric_limits<double>::min()) return place.error("the last is not above 0");
  return token;
}

Result<LabelledPool> read_pool(const JsonPlace& place) {
  LabelledPool pool;
  POLYKV_TRY(const JsonPlace name, place.member("name"));
  POLYKV_TRY(pool.name, name.text());
  POLYKV_TRY(const JsonPlace cards, place.member("cards"));
  POLYKV_TRY(const std::size_t num_cards, cards.size());
  for (std::size_t i = 0; i < num_cards; ++i) {
    std::vector<LabelledToken>& card = pool.cards.emplace_back();
    POLYKV_TRY(const std::size_t num_tokens, cards.item(i).size());
    for (std::size_t t = 0; t < num_tokens; ++t) {
      POLYKV_TRY(const LabelledToken token, read_token(cards.item(i).item(t)));
      card.push_back(token);
    }
  }
  return pool;
}

}  // namespace

std::string labels_part_text(const std::string& inputs_digest, std::span<const LabelledPool> pools) {
  ordered_json all = ordered_json::array();
  for (const LabelledPool& pool : pools) {
    ordered_json cards = ordered_json::array();
    for (const auto& card : pool.cards) cards.push_back(card_json(card));
    all.push_back({{"name", pool.name}, {"cards", std::move(cards)}});
  }
  const ordered_json json = {
      {"schema", std::string(kSchema) + std::string(kVersion)}, {"inputs", inputs_digest}, {"pools", std::move(all)}};
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Result<std::vector<LabelledPool>> parse_labels_part(std::span<const std::byte> text, const std::string& inputs_digest) {
  POLYKV_TRY(const nlohmann::json tree, parse_own_json(text));
  const JsonPlace root(tree);
  POLYKV_CHECK_STATUS(check_schema(root, kSchema, kVersion));
  POLYKV_TRY(const JsonPlace digest, root.member("inputs"));
  POLYKV_TRY(const std::string found, digest.text());
  if (found != inputs_digest) return Error(ErrorCode::kMismatch, "is of other pools or another model");
  POLYKV_TRY(const JsonPlace places, root.member("pools"));
  POLYKV_TRY(const std::size_t num_pools, places.size());
  std::vector<LabelledPool> pools;
  for (std::size_t i = 0; i < num_pools; ++i) {
    POLYKV_TRY(LabelledPool pool, read_pool(places.item(i)));
    pools.push_back(std::move(pool));
  }
  return pools;
}

}  // namespace polykv::runtime
