// One agent: a question put to a pool, answered token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/sampler.h"
#include "cli/runtime/step_runner.h"
#include "cli/runtime/tokenizer/tokenizer.h"
#include "core/tail.h"
#include "format/status.h"

namespace polykv::runtime {

struct AnswerOptions {
  std::uint32_t max_tokens = 512;
  SamplingOptions sampling;
  std::vector<std::string> stop;  // strings that end the answer; not part of it
};

enum class StopReason : std::uint8_t { kEos, kStop, kLength, kContext };
const char* stop_reason_name(StopReason reason);  // "eos", "stop", "length", "context"

struct Answer {
  std::string text;
  StopReason stop_reason = StopReason::kLength;
  std::uint32_t cached_tokens = 0;  // positions taken from the pool instead of being prefilled
  std::uint32_t prompt_tokens = 0;  // tokens of the question, prefilled now
  std::uint32_t generated_tokens = 0;
  double ttft_ms = 0.0;       // question taken to first token
  double decode_tok_s = 0.0;  // tokens after the first
  double total_ms = 0.0;
};

// Answers one question. `prompt` is make_question_tokens' result. `on_text` gets whole characters as they become
// certain (what may be the beginning of a stop string is held back); returning false ends the run with kInterrupted.
// Errors: kUnusableText (no room for the question), kInterrupted, what StepRunner::step gives.
format::Result<Answer> answer(StepRunner& runner, const ModelFile& model, const Tokenizer& tokenizer,
                              std::span<const TokenId> prompt, const AnswerOptions& options,
                              const std::function<bool(std::string_view)>& on_text);

// Holds back text that may become a stop string.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // Adds text; returns what is certain. Once a stop string is complete, stopped() is true and nothing more comes out.
  std::string add(std::string_view text);
  std::string finish();  // what was held back, if no stop string came
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace polykv::runtime
