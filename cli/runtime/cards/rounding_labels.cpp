#include "cli/runtime/cards/rounding_labels.h"

#include <algorithm>

#include "cli/runtime/divergence.h"
#include "core/codec.h"
#include "core/float16.h"
#include "format/bytes.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;

constexpr core::CodecPair kLabelCodec{kLabelBits, kLabelBits};

// [layer]: [token][kv_head][head_dim], as Tail::append takes them.
struct TailFloats {
  std::vector<std::vector<float>> keys, values;
};

// A head's mean and balances, which the chain's cards share.
struct SharedTransform {
  SharedTransform(std::span<const core::KvPool* const> chain, std::uint32_t layer, std::uint32_t kv_head,
                  std::span<const std::uint16_t> keys, std::size_t dim) {
    for (const core::KvPool* pool : chain) {
      const core::KvPool::Transform stored = pool->transform(layer, kv_head);
      if (stored.mean.empty()) continue;
      for (const auto vector : {stored.mean, stored.key_balance, stored.value_balance})
        for (std::size_t d = 0; d < dim; ++d) numbers.push_back(format::load_le16(vector.data() + 2 * d));
      const std::span<const std::uint16_t> all(numbers);
      transform = {all.subspan(0, dim), all.subspan(dim, dim), all.subspan(2 * dim, dim)};
      return;
    }
    numbers.resize(dim);
    core::mean_of_keys(keys, dim, numbers);
    transform.mean = numbers;
  }
  SharedTransform(const SharedTransform&) = delete;  // the transform is a view

  std::vector<std::uint16_t> numbers;
  core::HeadTransform transform;
};

// The agents' turns, one runner for all.
class Turns {
 public:
  Turns(const LabelRequest& request, core::Workers& workers)
      : request_(request),
        config_(request.model->config()),
        workers_(workers),
        runner_(request.model->file, {request.chain.begin(), request.chain.end()}, workers) {}

  Result<std::vector<LabelledToken>> label(std::size_t index) {
    std::vector<TokenId> turn = request_.questions[index];
    const std::size_t num_asked = turn.size();
    const std::vector<TokenId>& next_question = request_.next_questions[index];
    core::Tail tail = runner_.make_tail(
        static_cast<std::uint32_t>(turn.size() + next_question.size() + 2 * std::size_t{kLabelAnswerTokens}));
    POLYKV_CHECK_STATUS(answer(tail, turn));
    POLYKV_TRY(const auto features,
               token_features(*request_.model, *request_.chat, runner_, {request_.before, turn, num_asked}, workers_));
    const TailFloats exact = floats_of(tail, tail.num_seen());
    POLYKV_TRY(const TailFloats rounded, round(tail));
    next_ = next_question;
    POLYKV_CHECK_STATUS(answer(tail, next_));
    first_told_ = next_question.size() - 1;
    POLYKV_TRY(const std::vector<float> reference, read_next(exact, turn.size()));
    std::vector<LabelledToken> labelled;
    for (std::size_t t = 0; t < turn.size(); ++t) {
      const double share = static_cast<double>(index) + static_cast<double>(t) / static_cast<double>(turn.size());
      if (request_.on_progress && !request_.on_progress(share / static_cast<double>(request_.questions.size())))
        return Error(ErrorCode::kInterrupted, "interrupted");
      POLYKV_TRY(const double kld, change(exact, rounded, t, turn.size(), reference));
      if (kld > 0.0) labelled.push_back({features[t], kld});
    }
    return labelled;
  }

 private:
  std::size_t token_size() const { return std::size_t{config_.num_kv_heads} * config_.head_dim; }

  // Feeds `tokens` and the model's most likely ones after them, which join them. The token that ends the turn does not.
  Status answer(core::Tail& tail, std::vector<TokenId>& tokens) {
    std::vector<float> logits(config_.vocab_size);
    const auto ends = request_.model->tokenizer.end_tokens();
    for (std::size_t at = 0, most = tokens.size() + kLabelAnswerTokens; at < tokens.size();) {
      const auto part = std::span<const TokenId>(tokens).subspan(at, std::min(kMaxStepRows, tokens.size() - at));
      const AgentStep step{&tail, part, runner_.everything(), 1, logits.data()};
      POLYKV_CHECK_STATUS(runner_.step({&step, 1}));
      at += part.size();
      if (at < tokens.size() || at == most) continue;
      const auto top = static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      if (!std::binary_search(ends.begin(), ends.end(), top)) tokens.push_back(top);
    }
    return {};
  }

  TailFloats floats_of(const core::Tail& tail, std::size_t num_tokens) const {
    TailFloats floats;
    std::vector<std::uint16_t> keys, values;
    for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      std::vector<float>& of_keys = floats.keys.emplace_back(num_tokens * token_size());
      std::vector<float>& of_values = floats.values.emplace_back(num_tokens * token_size());
      for (std::uint32_t head = 0; head < config_.num_kv_heads; ++head) {
        keys.clear();
        values.clear();
        tail.copy_head(layer, head, keys, values);
        for (std::size_t i = 0; i < num_tokens * config_.head_dim; ++i) {
          of_keys[place(head, i)] = core::float16_to_float(keys[i]);
          of_values[place(head, i)] = core::float16_to_float(values[i]);
        }
      }
    }
    return floats;
  }

  // Where number `i` of a head's [token][head_dim] is among all heads'.
  std::size_t place(std::uint32_t head, std::size_t i) const {
    const std::size_t dim = config_.head_dim;
    return i / dim * token_size() + head * dim + i % dim;
  }

  // All tokens as a card of few bits would hold them.
  Result<TailFloats> round(const core::Tail& tail) const {
    const std::size_t num_tokens = tail.num_seen(), dim = config_.head_dim;
    TailFloats rounded = floats_of(tail, num_tokens);
    std::vector<std::byte> pages(format::run_bytes(kLabelCodec.key, kLabelCodec.value, dim, num_tokens));
    std::vector<std::uint16_t> keys, values;
    std::vector<float> of_keys(num_tokens * dim), of_values(num_tokens * dim);
    for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      for (std::uint32_t head = 0; head < config_.num_kv_heads; ++head) {
        keys.clear();
        values.clear();
        tail.copy_head(layer, head, keys, values);
        const SharedTransform shared(request_.chain, layer, head, keys, dim);
        POLYKV_TRY(const format::ScaleExponents exponents,
                   core::quantize_run(kLabelCodec, keys, values, dim, shared.transform, pages));
        core::dequantize_run(kLabelCodec, exponents, pages, num_tokens, dim, shared.transform, of_keys, of_values);
        for (std::size_t i = 0; i < of_keys.size(); ++i) {
          rounded.keys[layer][place(head, i)] = of_keys[i];
          rounded.values[layer][place(head, i)] = of_values[i];
        }
      }
    }
    return rounded;
  }

  // Logits [answer's tokens][vocab_size] that tell the next agent's answer.
  Result<std::vector<float>> read_next(const TailFloats& turn, std::size_t num_tokens) {
    core::Tail tail = runner_.make_tail(static_cast<std::uint32_t>(num_tokens + next_.size()));
    for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer)
      tail.append(layer, turn.keys[layer], turn.values[layer], static_cast<std::uint32_t>(num_tokens));
    tail.commit(static_cast<std::uint32_t>(num_tokens));
    std::vector<float> logits((next_.size() - first_told_) * config_.vocab_size);
    for (std::size_t at = 0; at < next_.size(); at += kMaxStepRows) {
      const std::size_t end = std::min(at + kMaxStepRows, next_.size());
      const std::size_t told = end - std::clamp(first_told_, at, end);
      float* out = told == 0 ? nullptr : &logits[(end - told - first_told_) * config_.vocab_size];
      const AgentStep step{&tail, std::span<const TokenId>(next_).subspan(at, end - at), runner_.everything(), told,
                           out};
      POLYKV_CHECK_STATUS(runner_.step({&step, 1}));
    }
    return logits;
  }

  // What rounding token `t` does.
  Result<double> change(const TailFloats& exact, const TailFloats& rounded, std::size_t t, std::size_t num_tokens,
                        std::span<const float> reference) {
    TailFloats changed = exact;
    for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      const std::size_t at = t * token_size();
      std::copy_n(&rounded.keys[layer][at], token_size(), &changed.keys[layer][at]);
      std::copy_n(&rounded.values[layer][at], token_size(), &changed.values[layer][at]);
    }
    POLYKV_TRY(const std::vector<float> logits, read_next(changed, num_tokens));
    std::vector<std::uint32_t> targets(logits.size() / config_.vocab_size);  // divergence does not depend on them
    DivergenceMeter meter;
    meter.add(reference, logits, targets, workers_);
    return meter.summary().kld_mean;
  }

  const LabelRequest& request_;
  const ModelConfig& config_;
  core::Workers& workers_;
  StepRunner runner_;
  std::vector<TokenId> next_;   // the next agent's turn
  std::size_t first_told_ = 0;  // the row of it that tells the answer's first token
};

}  // namespace

Result<std::vector<std::vector<LabelledToken>>> label_turns(const LabelRequest& request, core::Workers& workers) {
  std::size_t longest = 0;
  for (const auto* questions : {&request.questions, &request.next_questions}) {
    for (const auto& question : *questions) {
      if (question.empty()) return Error(ErrorCode::kUnusableText, "a question has no token in the model's vocabulary");
      longest = std::max(longest, question.size());
    }
  }
  const std::size_t most = request.chain.back()->end_position() + 2 * (longest + kLabelAnswerTokens);
  if (most > request.model->config().context_length)
    return Error(ErrorCode::kUnusableText, "leaves no room for two questions and answers in the model's context");
  Turns turns(request, workers);
  std::vector<std::vector<LabelledToken>> cards;
  for (std::size_t i = 0; i < request.questions.size(); ++i) {
    POLYKV_TRY(std::vector<LabelledToken> card, turns.label(i));
    cards.push_back(std::move(card));
  }
  return cards;
}

}  // namespace polykv::runtime
