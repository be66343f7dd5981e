#include "cli/runtime/session.h"

#include <algorithm>
#include <chrono>

namespace polykv::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using format::Error;
using format::ErrorCode;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Feeds the question in blocks of rows; logits of its last token.
format::Status prefill_question(StepRunner& runner, core::Tail& tail, std::span<const TokenId> prompt,
                                const std::function<bool(std::string_view)>& on_text, std::vector<float>& logits) {
  for (std::size_t at = 0; at < prompt.size(); at += kMaxStepRows) {
    const std::span<const TokenId> rows = prompt.subspan(at, std::min(kMaxStepRows, prompt.size() - at));
    const bool last = at + rows.size() == prompt.size();
    const AgentStep step{&tail, rows, runner.everything(), last ? std::size_t{1} : 0, last ? logits.data() : nullptr};
    POLYKV_CHECK_STATUS(runner.step({&step, 1}));
    if (!on_text({})) return Error(ErrorCode::kInterrupted, "interrupted");
  }
  return {};
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

std::string StopFilter::add(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  std::size_t first_stop = std::string::npos;
  for (const std::string& stop : stops_) first_stop = std::min(first_stop, held_.find(stop));
  if (first_stop != std::string::npos) {
    stopped_ = true;
    return std::exchange(held_, {}).substr(0, first_stop);
  }
  // Keep the longest end that begins some stop string.
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t size = std::min(stop.size() - 1, held_.size()); size > keep; --size) {
      if (std::string_view(held_).substr(held_.size() - size) == std::string_view(stop).substr(0, size)) keep = size;
    }
  }
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

std::string StopFilter::finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }

format::Result<Answer> answer(StepRunner& runner, const ModelFile& model, const Tokenizer& tokenizer,
                              std::span<const TokenId> prompt, const AnswerOptions& options,
                              const std::function<bool(std::string_view)>& on_text) {
  const Clock::time_point start = Clock::now();
  const std::uint32_t context = model.config().context_length;
  const std::uint32_t cached = runner.chain_end();
  if (cached + prompt.size() >= context) {
    return Error(ErrorCode::kUnusableText, "the question has " + std::to_string(prompt.size()) +
                                               " tokens and the pool " + std::to_string(cached) +
                                               ": no room for an answer in the model's context of " +
                                               std::to_string(context));
  }
  const std::uint32_t room = context - cached;
  core::Tail tail = runner.make_tail(room);
  Answer result;
  result.cached_tokens = cached;
  result.prompt_tokens = static_cast<std::uint32_t>(prompt.size());
  std::vector<float> logits(model.config().vocab_size);
  POLYKV_CHECK_STATUS(prefill_question(runner, tail, prompt, on_text, logits));

  Sampler sampler(options.sampling);
  Detokenizer detokenizer(tokenizer);
  StopFilter filter(options.stop);
  const auto emit = [&](std::string text) {
    result.text += text;
    return on_text(text);
  };
  Clock::time_point first_token = start;
  while (true) {
    if (result.generated_tokens == options.max_tokens) {
      result.stop_reason = StopReason::kLength;
      break;
    }
    const TokenId token = sampler.sample(logits);
    if (result.generated_tokens == 0) {
      first_token = Clock::now();
      result.ttft_ms = milliseconds_since(start);
    }
    ++result.generated_tokens;
    const auto ends = tokenizer.end_tokens();
    if (std::binary_search(ends.begin(), ends.end(), token)) {
      result.stop_reason = StopReason::kEos;
      break;
    }
    if (!emit(filter.add(detokenizer.add(token)))) return Error(ErrorCode::kInterrupted, "interrupted");
    if (filter.stopped()) {
      result.stop_reason = StopReason::kStop;
      break;
    }
    if (tail.num_tokens() == room) {
      result.stop_reason = StopReason::kContext;
      break;
    }
    const AgentStep step{&tail, {&token, 1}, runner.everything(), 1, logits.data()};
    POLYKV_CHECK_STATUS(runner.step({&step, 1}));
  }
  if (!filter.stopped() && !emit(filter.add(detokenizer.finish()) + filter.finish())) {
    return Error(ErrorCode::kInterrupted, "interrupted");
  }
  const double decode_ms = milliseconds_since(first_token);
  if (result.generated_tokens > 1) result.decode_tok_s = (result.generated_tokens - 1) / (decode_ms / 1000.0);
  result.total_ms = milliseconds_since(start);
  return result;
}

}  // namespace polykv::runtime
