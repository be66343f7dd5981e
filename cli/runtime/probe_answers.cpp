#include <algorithm>

#include "cli/runtime/probe_run.h"
#include "cli/runtime/prompt.h"

namespace polykv::runtime {

using format::Status;

namespace {

constexpr double kShare = 1.0 / 2.0;  // of the time that is left

// A question, and its answer as the uncompressed cache gives it.
struct Question {
  PairRunner::Agent agent;
  std::vector<TokenId> unfed;  // the question, then the token answered last
  bool answered = false;
  std::uint32_t num_answered = 0;
  std::optional<std::uint32_t> first_difference = {};
};

class Answers {
 public:
  Answers(ProbeRun& run, std::uint32_t max_tokens) : run_(run), max_tokens_(max_tokens) {}

  std::size_t ask() {
    std::size_t num_tokens = 0;
    for (const char* question : kProbeQuestions) {
      std::vector<TokenId> tokens =
          make_question_tokens(run_.request.model.tokenizer, run_.request.chat, run_.request.open_text, question);
      num_tokens += tokens.size();
      const auto capacity = static_cast<std::uint32_t>(tokens.size() + max_tokens_);
      questions_.push_back({run_.runner.make_agent(static_cast<std::uint32_t>(run_.request.tokens.size()), capacity),
                            std::move(tokens)});
    }
    return num_tokens;
  }

  std::size_t longest() const {
    std::size_t longest = 0;
    for (const Question& question : questions_) longest = std::max(longest, question.unfed.size());
    return longest;
  }

  // A token for each question that is not yet answered; false if all are.
  format::Result<bool> step() {
    // Questions but their last tokens, from which nothing is wanted, a few rows each.
    while (longest() > 1) POLYKV_CHECK_STATUS(feed_questions());
    std::vector<Question*> open;
    std::vector<PairRunner::Step> steps;
    for (Question& question : questions_) {
      if (question.answered) continue;
      open.push_back(&question);
      steps.push_back({&question.agent, question.unfed, 1});
    }
    if (open.empty()) return false;
    POLYKV_CHECK_STATUS(run_.step(steps));
    score(open);
    return true;
  }

  std::uint32_t num_answered() const {
    std::uint32_t longest = 0;
    for (const Question& question : questions_) longest = std::max(longest, question.num_answered);
    return longest;
  }

  const std::vector<Question>& questions() const { return questions_; }
  const DivergenceMeter& meter() const { return meter_; }

 private:
  Status feed_questions() {
    std::vector<PairRunner::Step> steps;
    std::vector<std::vector<TokenId>> fed;
    fed.reserve(questions_.size());
    for (Question& question : questions_) {
      const std::size_t count = std::min(question.unfed.size() - 1, kMaxStepRows / questions_.size());
      if (count == 0) continue;
      const auto end = question.unfed.begin() + static_cast<std::ptrdiff_t>(count);
      fed.emplace_back(question.unfed.begin(), end);
      question.unfed.erase(question.unfed.begin(), end);
      steps.push_back({&question.agent, fed.back(), 0});
    }
    return run_.step(steps);
  }

  void score(std::span<Question* const> open) {
    const auto row = [&](std::span<const float> logits, std::size_t i) {
      return logits.subspan(i * run_.vocab_size, run_.vocab_size);
    };
    const auto ends = run_.request.model.tokenizer.end_tokens();
    std::vector<TokenId> answers;
    for (std::size_t i = 0; i < open.size(); ++i) {
      Question& question = *open[i];
      const auto token = static_cast<TokenId>(top_token(row(run_.runner.reference(), i)));
      answers.push_back(token);
      if (!question.first_difference && top_token(row(run_.runner.compressed(), i)) != token)
        question.first_difference = question.num_answered;
      ++question.num_answered;
      question.unfed.assign(1, token);
      question.answered = question.num_answered == max_tokens_ || std::binary_search(ends.begin(), ends.end(), token);
    }
    meter_.add(run_.runner.reference(), run_.runner.compressed(), answers, run_.workers);
  }

  ProbeRun& run_;
  std::uint32_t max_tokens_;
  std::vector<Question> questions_;
  DivergenceMeter meter_;
};

}  // namespace

Status probe_answers(ProbeRun& run, double position_ms, Fidelity& fidelity) {
  fidelity.counts.answer_tokens = 0;
  const std::uint32_t max_tokens = run.request.counts.answer_tokens;
  const double end_ms = run.now_ms() + std::max(0.0, run.left_ms()) * kShare;
  Answers answers(run, max_tokens);
  const auto question_tokens = static_cast<double>(answers.ask());
  const std::uint32_t context = run.request.model.config().context_length;
  if (max_tokens == 0 || run.request.tokens.size() + answers.longest() + max_tokens > context ||
      run.now_ms() + question_tokens * position_ms > end_ms) {
    return {};
  }
  double step_ms = 0.0;  // the next one will take as long as the last
  for (bool more = true; more && run.now_ms() + step_ms <= end_ms;) {
    const double start = run.now_ms();
    POLYKV_TRY(more, answers.step());
    if (answers.num_answered() > 1) step_ms = run.now_ms() - start;
  }
  fidelity.answers = answers.meter().summary();
  fidelity.counts.answer_tokens = answers.num_answered();
  for (const Question& question : answers.questions()) fidelity.first_difference.push_back(question.first_difference);
  return {};
}

}  // namespace polykv::runtime
