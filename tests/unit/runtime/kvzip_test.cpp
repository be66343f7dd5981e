// KVzip's scores against their definition, with a runner whose vectors are known.
#include "cli/runtime/retention/kvzip.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/runtime/model_locator.h"
#include "core/float16.h"
#include "tests/support/catch.h"
#include "tests/support/golden_logits.h"

namespace polykv::runtime {
namespace {

// Any number, the same for the same vector: what 0 query, 1 key, 2 value of a position is.
float number(std::uint32_t what, std::uint32_t layer, std::size_t head, std::size_t position, std::size_t d) {
  const double x = std::sin(static_cast<double>(what * 7919 + layer * 104729 + head * 1299709 + position * 15485863) +
                            static_cast<double>(d) * 12.9898) *
                   43758.5453;
  return 4.0f * static_cast<float>(x - std::floor(x)) - 2.0f;
}

std::vector<std::uint16_t> vectors(std::uint32_t what, std::uint32_t layer, std::size_t num_heads, std::size_t first,
                                   std::size_t end, std::size_t dim) {
  std::vector<std::uint16_t> out;
  for (std::size_t head = 0; head < num_heads; ++head)
    for (std::size_t t = first; t < end; ++t)
      for (std::size_t d = 0; d < dim; ++d) out.push_back(core::float_to_float16(number(what, layer, head, t, d)));
  return out;
}

struct Call {
  std::vector<std::uint32_t> rows;
  std::uint32_t num_past;
};

class KnownRunner : public PrefillRunner {
 public:
  format::Status prefill(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                         const std::function<format::Status(const LayerKv&)>& on_layer) override {
    const ModelConfig& config = model.config();
    calls.push_back({{tokens.begin(), tokens.end()}, options.num_past});
    const std::size_t first = options.num_past, end = first + tokens.size();
    for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
      const LayerKv past = options.past(layer);
      CHECK(past.num_tokens == options.num_past);
      CHECK(std::equal(past.keys.begin(), past.keys.end(),
                       vectors(1, layer, config.num_kv_heads, 0, first, config.head_dim).begin()));
      const auto keys = vectors(1, layer, config.num_kv_heads, first, end, config.head_dim);
      const auto values = vectors(2, layer, config.num_kv_heads, first, end, config.head_dim);
      const auto queries = vectors(0, layer, config.num_q_heads, first, end, config.head_dim);
      POLYKV_CHECK_STATUS(on_layer({layer, static_cast<std::uint32_t>(tokens.size()), keys, values, queries}));
    }
    return {};
  }
  format::Status logits(const ModelFile&, std::span<const std::uint32_t>, const PrefillOptions&,
                        std::span<const std::uint32_t>, std::span<float>) override {
    return format::Error(format::ErrorCode::kFailed, "none");
  }
  std::string version() const override { return "known"; }

  std::vector<Call> calls;
};

// What each position of the chunk [begin, end) gets at most from one of the rows, by the definition.
std::vector<double> expected(const ModelConfig& config, std::uint32_t layer, std::size_t kv_head, const Call& call,
                             std::size_t begin, std::size_t end) {
  const std::size_t dim = config.head_dim;
  const auto value = [&](std::uint32_t what, std::size_t head, std::size_t t, std::size_t d) {
    return static_cast<double>(core::float16_to_float(core::float_to_float16(number(what, layer, head, t, d))));
  };
  std::vector<double> scores(end - begin, 0.0);
  for (std::size_t q_head = kv_head * config.q_per_kv(); q_head < (kv_head + 1) * config.q_per_kv(); ++q_head) {
    for (std::size_t row = call.num_past; row < call.num_past + call.rows.size(); ++row) {
      const auto weight = [&](std::size_t t) {
        double product = 0.0;
        for (std::size_t d = 0; d < dim; ++d) product += value(0, q_head, row, d) * value(1, kv_head, t, d);
        return std::exp(product / std::sqrt(static_cast<double>(dim)));
      };
      std::map<std::size_t, double> seen;  // sinks, chunk, the repetition up to the row
      for (std::size_t t = 0; t < std::min<std::size_t>(4, call.num_past); ++t) seen[t] = weight(t);
      for (std::size_t t = begin; t < end; ++t) seen[t] = weight(t);
      for (std::size_t t = call.num_past; t <= row; ++t) seen[t] = weight(t);
      double sum = 0.0;
      for (const auto& [t, w] : seen) sum += w;
      for (std::size_t t = begin; t < end; ++t) scores[t - begin] = std::max(scores[t - begin], seen[t] / sum);
    }
  }
  return scores;
}

TEST_CASE("kvzip: the largest weight that a position gets when its chunk is repeated") {
  const auto model = open_model(tests::model_path("llama-gqa-q8_0"), DigestPolicy::kFull);
  REQUIRE(model.has_value());
  const auto chat = make_chat_template("auto", model->file.chat_template(), {}, model->tokenizer);
  REQUIRE(chat.has_value());
  const ModelConfig& config = model->config();
  std::vector<std::uint32_t> tokens;
  for (const TextToken& token : model->tokenizer.tokenize("A light that nobody keeps goes out, said the keeper."))
    tokens.push_back(token.id);
  REQUIRE(tokens.size() > 12);
  const auto all = static_cast<std::uint32_t>(tokens.size()), first_end = all - 7;
  const HeadSource source = [&](std::uint32_t layer, std::uint32_t head, std::size_t) {
    static std::vector<std::uint16_t> keys, values;
    const std::size_t size = std::size_t{all} * config.head_dim;
    keys = vectors(1, layer, config.num_kv_heads, 0, all, config.head_dim);
    values = vectors(2, layer, config.num_kv_heads, 0, all, config.head_dim);
    return HeadKv{std::span(keys).subspan(head * size, size), std::span(values).subspan(head * size, size)};
  };
  KnownRunner runner;
  double last_share = 0.0;
  Repetition repetition{*model, *chat, "", tokens, runner, {}, source};
  repetition.options.on_progress = [&](double share) {
    last_share = share;
    return true;
  };
  core::Workers workers(2);
  const std::uint32_t ends[] = {first_end, all};
  const auto scores = score_kvzip(repetition, ends, workers);
  REQUIRE(scores.has_value());
  REQUIRE(runner.calls.size() == 2);
  CHECK(runner.calls[0].num_past == first_end);
  CHECK(runner.calls[1].num_past == all);
  // The rows end with the chunk that is repeated.
  CHECK(std::equal(tokens.begin(), tokens.begin() + first_end, runner.calls[0].rows.end() - first_end));
  CHECK(std::equal(tokens.begin() + first_end, tokens.end(), runner.calls[1].rows.end() - 7));
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
    for (std::size_t head = 0; head < config.num_kv_heads; ++head) {
      const auto first = expected(config, layer, head, runner.calls[0], 0, first_end);
      const auto second = expected(config, layer, head, runner.calls[1], first_end, all);
      for (std::size_t t = 0; t < all; ++t) {
        const double wanted = t < first_end ? first[t] : second[t - first_end];
        const auto found = static_cast<double>((*scores)[1][layer].positions[head * all + t]);
        // Scores up to about 20 in float, 2^-24 a step of head_dim, and the exponential of their difference.
        REQUIRE(std::abs(found - wanted) <= 1e-4 * wanted);
        if (t < first_end)
          REQUIRE((*scores)[0][layer].positions[head * first_end + t] == (*scores)[1][layer].positions[head * all + t]);
      }
    }
  }
}

TEST_CASE("kvzip: without room for a repetition it says so") {
  const auto model = open_model(tests::model_path("llama-gqa-q8_0"), DigestPolicy::kFull);
  REQUIRE(model.has_value());
  const auto chat = make_chat_template("auto", model->file.chat_template(), {}, model->tokenizer);
  const std::vector<std::uint32_t> tokens(model->config().context_length - 20, 5);
  KnownRunner runner;
  core::Workers workers(1);
  const std::uint32_t ends[] = {static_cast<std::uint32_t>(tokens.size())};
  const auto scores = score_kvzip({*model, *chat, "", tokens, runner, {}, {}}, ends, workers);
  REQUIRE_FALSE(scores.has_value());
  CHECK(scores.error().code == format::ErrorCode::kUnusableText);
  CHECK(runner.calls.empty());
}

}  // namespace
}  // namespace polykv::runtime
