// One agent: a question put to a pool, answered token by token.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/retention/tail_retention.h"
#include "cli/runtime/sampler.h"
#include "cli/runtime/step_runner.h"
#include "cli/runtime/stop_filter.h"
#include "cli/runtime/tokenizer/tokenizer.h"
#include "core/tail.h"
#include "format/status.h"

namespace polykv::runtime {

struct AnswerOptions {
  std::uint32_t max_tokens = 512;  // at least 1
  SamplingOptions sampling;
  std::vector<std::string> stop;  // strings that end the answer; not part of it
  // Of the agent's own question and answer, of which keep_tokens positions stay (tail_retention.h). Empty: all.
  std::optional<RetentionChoice> tail = {};
  bool keeps_tail = false;  // after the end, for a card
};

enum class StopReason : std::uint8_t { kEos, kStop, kLength, kContext };
const char* stop_reason_name(StopReason reason);  // "eos", "stop", "length", "context"

struct Answer {
  std::string text;
  StopReason stop_reason = StopReason::kLength;
  std::uint32_t cached_tokens = 0;  // positions taken from the pool instead of being prefilled
  std::uint32_t prompt_tokens = 0;  // tokens of the question, prefilled now
  std::uint32_t generated_tokens = 0;
  std::uint32_t dropped_tokens = 0;  // of the tail, by a head on average
  double ttft_ms = 0.0;              // question taken to first token
  double decode_tok_s = 0.0;         // tokens after the first
  double total_ms = 0.0;
};

// Has tokens to feed (its question, then the token it sampled last) until it is finished. It does not run the model:
// whoever does (scheduler.h) decides how many of the tokens go into a step, which changes nothing about the answer.
class Agent {
 public:
  // `prompt` is make_question_tokens' result. Runner and tokenizer must outlive the agent.
  // Errors: kUnusableText: no token, or no room for an answer in the model's context.
  static format::Result<std::unique_ptr<Agent>> start(const StepRunner& runner, const ModelConfig& config,
                                                      const Tokenizer& tokenizer, std::vector<TokenId> prompt,
                                                      const AnswerOptions& options);

  bool is_finished() const { return finished_; }
  std::span<const TokenId> unfed() const { return std::span(tokens_).subspan(num_fed_); }  // not empty until finished
  core::Tail& tail() { return tail_; }

  // How many of them the next step may feed: 1 or more.
  std::size_t most_rows() const;

  // What a step computed for the agent's rows in one layer; needed only with AnswerOptions::tail.
  bool watches() const { return tail_retention_.has_value(); }
  void see(std::uint32_t layer, std::span<const float> queries) { tail_retention_->add(layer, queries); }
  // After a step and advance(): lets go of what the tail does not keep.
  void trim(core::Workers& workers);

  // After a step that fed all of unfed(): the token after them, from the logits of the last. Allocates nothing, so that
  // it may run on a worker.
  void sample(std::span<const float> logits);
  // After a step that fed the first `count` of unfed(), and sample() if that was all.
  void advance(std::size_t count);

  // The text that became certain since the last call (what may be the beginning of a stop string is held back).
  std::string_view take_text();
  // With AnswerOptions::keeps_tail, of a finished agent: what was fed, in order, and what the tail still lacks: the
  // last token of an answer that was cut off. A token that ends the turn is none of the answer's.
  std::span<const TokenId> fed() const { return fed_; }
  // Feeds what is lacking.
  format::Status complete_tail(StepRunner& runner);

  // Whole once is_finished().
  const Answer& answer() const { return answer_; }

 private:
  using Clock = std::chrono::steady_clock;

  Agent(const StepRunner& runner, const ModelConfig& config, const Tokenizer& tokenizer, std::vector<TokenId> prompt,
        const AnswerOptions& options);
  void accept(TokenId token);
  void finish(StopReason reason);

  const Clock::time_point start_ = Clock::now();
  Clock::time_point first_token_;
  const Tokenizer& tokenizer_;
  const std::uint32_t max_tokens_;
  const bool keeps_tail_;
  core::Tail tail_;
  std::optional<TailRetention> tail_retention_;
  std::vector<TokenId> tokens_;  // the question, or the token sampled last
  std::size_t num_fed_ = 0;      // of tokens_
  std::vector<TokenId> fed_;     // all so far, if the tail is kept
  TokenId sampled_ = 0;
  Sampler sampler_;
  Detokenizer detokenizer_;
  StopFilter filter_;
  Answer answer_;
  std::size_t num_taken_ = 0;  // bytes of answer_.text
  bool finished_ = false;
};

}  // namespace polykv::runtime
