#include "cli/runtime/agent.h"

#include <algorithm>
#include <cmath>

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;

double milliseconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace

const char* stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kEos:
      return "eos";
    case StopReason::kStop:
      return "stop";
    case StopReason::kLength:
      return "length";
    case StopReason::kContext:
      return "context";
  }
  return "";
}

format::Result<std::unique_ptr<Agent>> Agent::start(const StepRunner& runner, const ModelConfig& config,
                                                    const Tokenizer& tokenizer, std::vector<TokenId> prompt,
                                                    const AnswerOptions& options) {
  if (prompt.empty()) return Error(ErrorCode::kUnusableText, "the question has no token in the model's vocabulary");
  if (runner.chain_end() + prompt.size() >= config.context_length) {
    return Error(ErrorCode::kUnusableText, "the question has " + std::to_string(prompt.size()) +
                                               " tokens and the pool " + std::to_string(runner.chain_end()) +
                                               ": no room for an answer in the model's context of " +
                                               std::to_string(config.context_length));
  }
  return std::unique_ptr<Agent>(new Agent(runner, config, tokenizer, std::move(prompt), options));
}

Agent::Agent(const StepRunner& runner, const ModelConfig& config, const Tokenizer& tokenizer,
             std::vector<TokenId> prompt, const AnswerOptions& options)
    : tokenizer_(tokenizer),
      max_tokens_(options.max_tokens),
      keeps_tail_(options.keeps_tail),
      tail_(runner.make_tail(config.context_length - runner.chain_end())),
      tokens_(std::move(prompt)),
      sampler_(options.sampling, config.vocab_size),
      detokenizer_(tokenizer),
      filter_(options.stop) {
  if (options.tail) tail_retention_.emplace(config, *options.tail);
  answer_.cached_tokens = runner.chain_end();
  answer_.prompt_tokens = static_cast<std::uint32_t>(tokens_.size());
}

void Agent::sample(std::span<const float> logits) {
  sampled_ = sampler_.sample(logits);
  if (answer_.generated_tokens == 0) first_token_ = Clock::now();
}

void Agent::advance(std::size_t count) {
  if (keeps_tail_) {
    const auto begin = tokens_.begin() + static_cast<std::ptrdiff_t>(num_fed_);
    fed_.insert(fed_.end(), begin, begin + static_cast<std::ptrdiff_t>(count));
  }
  num_fed_ += count;
  if (num_fed_ < tokens_.size()) return;
  tokens_.assign(1, sampled_);
  num_fed_ = 0;
  accept(sampled_);
}

std::size_t Agent::most_rows() const {
  return tail_retention_ ? TailRetention::rows_until_next(tail_) : unfed().size();
}

void Agent::trim(core::Workers& workers) {
  if (finished_ || !tail_retention_) return;
  tail_retention_->apply(tail_, workers);
  answer_.dropped_tokens = static_cast<std::uint32_t>(std::lround(tail_.num_seen() - tail_.mean_tokens()));
}

void Agent::accept(TokenId token) {
  ++answer_.generated_tokens;
  const auto ends = tokenizer_.end_tokens();
  if (std::binary_search(ends.begin(), ends.end(), token)) return finish(StopReason::kEos);
  answer_.text += filter_.add(detokenizer_.add(token));
  if (filter_.stopped()) return finish(StopReason::kStop);
  if (tail_.num_seen() == tail_.capacity()) return finish(StopReason::kContext);
  if (answer_.generated_tokens == max_tokens_) return finish(StopReason::kLength);
}

format::Status Agent::complete_tail(StepRunner& runner) {
  const bool whole = answer_.stop_reason == StopReason::kEos || tail_.num_seen() == tail_.capacity();
  if (whole) return {};
  const AgentStep step{&tail_, tokens_, runner.everything(), 0, nullptr};
  POLYKV_CHECK_STATUS(runner.step({&step, 1}));
  fed_.push_back(tokens_.front());
  return {};
}

std::string_view Agent::take_text() {
  const std::size_t begin = std::exchange(num_taken_, answer_.text.size());
  return std::string_view(answer_.text).substr(begin);
}

void Agent::finish(StopReason reason) {
  if (!filter_.stopped()) answer_.text += filter_.add(detokenizer_.finish()) + filter_.finish();
  const Clock::time_point now = Clock::now();
  answer_.stop_reason = reason;
  answer_.ttft_ms = milliseconds(first_token_ - start_);
  answer_.total_ms = milliseconds(now - start_);
  const double decode_ms = milliseconds(now - first_token_);
  if (answer_.generated_tokens > 1) answer_.decode_tok_s = (answer_.generated_tokens - 1) / (decode_ms / 1000.0);
  // Whoever holds a finished agent, until answers before it are printed, holds a text and little else.
  if (!keeps_tail_) tail_.clear();
  sampler_ = Sampler({});
  finished_ = true;
}

}  // namespace polykv::runtime
