#include "cli/commands/interview.h"

#include <nlohmann/json.hpp>

#include "cli/signals.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Status;

// Answers wait until those before them are printed. So many at most: a pipe without end that brings what is answered
// at once must not fill the memory while one long answer is in work.
constexpr std::size_t kMaxItems = 1024;

}  // namespace

Interview::Interview(const Options& options, Report& report, Desk& desk, runtime::AnswerOptions answer_options,
                     double load_ms, const runtime::CardBits& card_bits)
    : options_(options),
      report_(report),
      desk_(desk),
      scheduler_(desk.runner, desk.workers, desk.model.config().vocab_size),
      answer_options_(std::move(answer_options)),
      load_ms_(load_ms),
      card_bits_(card_bits),
      failed_path_(&options.operands.front()) {}

int Interview::run(QuestionSource& questions) {
  while (report_.can_print() && !(at_end_ && items_.empty())) {
    if (const Status status = go_on(questions); !status) {
      if (!report_.can_print()) break;
      const bool stopped = !check_stop();
      return report_.error(stopped ? "" : *failed_path_, status.error());
    }
  }
  if (num_printed_ == 0 && report_.can_print()) {
    return report_.error(
        {}, Error(ErrorCode::kUnusableText, "no question: give one as an argument, or one a line on standard input"));
  }
  return num_failed_ > 0 ? exit_status(ErrorCode::kItemsFailed) : 0;
}

// Takes questions, feeds every agent, prints what has come. An error ends the interview.
Status Interview::go_on(QuestionSource& questions) {
  POLYKV_CHECK_STATUS(check_stop());
  POLYKV_CHECK_STATUS(take_questions(questions));
  const Status stepped = in_flight_.empty() ? Status() : scheduler_.step(in_flight_);
  // After tokens are computed, before they are printed; and before what else went wrong, for a change may be its cause.
  POLYKV_CHECK_STATUS(desk_.check_unchanged());
  POLYKV_CHECK_STATUS(stepped);
  std::erase_if(in_flight_, [](const runtime::Agent* agent) { return agent->is_finished(); });
  return print_items();
}

// Waits for a question only when there is nothing else to do.
Status Interview::take_questions(QuestionSource& questions) {
  while (!at_end_ && in_flight_.size() < options_.agents && items_.size() < kMaxItems) {
    using Wait = QuestionSource::Wait;
    POLYKV_TRY(const bool ready, questions.ready(items_.empty() ? Wait::kYes : Wait::kNo));
    if (!ready) return {};
    POLYKV_TRY(std::optional<Question> question, questions.next());
    at_end_ = !question;
    if (!question) return {};
    items_.push_back(start(*std::move(question)));
    if (items_.back().agent != nullptr) in_flight_.push_back(items_.back().agent.get());
  }
  return {};
}

Interview::Item Interview::start(Question question) const {
  const Status usable = question.usable;
  if (!usable) return {std::move(question), nullptr, usable.error()};
  std::vector<runtime::TokenId> prompt = desk_.question_tokens(question.text);
  auto agent = runtime::Agent::start(desk_.runner, desk_.model.config(), desk_.model.tokenizer, std::move(prompt),
                                     answer_options_);
  if (!agent) return {std::move(question), nullptr, agent.error()};
  return {std::move(question), *std::move(agent), std::nullopt};
}

Status Interview::save(Item& item) {
  if (options_.save.empty() || item.agent == nullptr) return {};
  POLYKV_TRY(item.card, save_card(options_, card_bits_, desk_, *item.agent));
  return {};
}

// What can be printed in order: whole answers, and in text mode the beginning of the oldest one in work.
Status Interview::print_items() {
  while (!items_.empty()) {
    Item& item = items_.front();
    if (prints_text()) print_text(item);
    if (!item.is_finished()) break;
    const Status saved = save(item);  // after the text: that is there whatever becomes of the card
    if (!prints_text()) print_json(item);
    report_.flush();
    if (!saved) {
      failed_path_ = &options_.save;
      return saved;
    }
    ++num_printed_;
    if (item.agent == nullptr) ++num_failed_;
    front_begun_ = false;
    items_.pop_front();
  }
  return {};
}

void Interview::print_text(Item& item) {
  if (!front_begun_ && num_printed_ > 0) report_.print("\n");
  front_begun_ = true;
  if (item.error) {
    report_.error("question " + item.question.label(), *item.error);
    return;
  }
  report_.print(item.agent->take_text());
  const std::string& text = item.agent->answer().text;
  if (item.is_finished() && (text.empty() || text.back() != '\n')) report_.print("\n");
  report_.flush();
}

void Interview::print_json(const Item& item) {
  const runtime::Answer none;
  const runtime::Answer& answer = item.agent == nullptr ? none : item.agent->answer();
  const std::string& model = desk_.model.config().name;
  nlohmann::ordered_json line = {
      {"schema", "polykv.ask/1"}, {"id", item.question.id}, {"question", item.question.text}};
  line["answer"] = nullptr;
  line["stop_reason"] = nullptr;
  if (!item.error) {
    line["answer"] = answer.text;
    line["stop_reason"] = stop_reason_name(answer.stop_reason);
  }
  line["cached_tokens"] = answer.cached_tokens;
  line["prompt_tokens"] = answer.prompt_tokens;
  line["generated_tokens"] = answer.generated_tokens;
  if (answer_options_.tail) line["dropped_tokens"] = answer.dropped_tokens;
  line["seed"] = answer_options_.sampling.seed;
  line["load_ms"] = load_ms_;
  line["ttft_ms"] = answer.ttft_ms;
  line["decode_tok_s"] = answer.decode_tok_s;
  line["total_ms"] = answer.total_ms;
  if (item.card) {
    line["card"] = {{"path", options_.save},
                    {"tokens", item.card->tokens},
                    {"bytes", item.card->bytes},
                    {"write_ms", item.card->write_ms}};
  }
  line["pool"] = options_.operands.front();
  line["model"] = model.empty() ? desk_.model.file.path().filename().string() : model;
  line["error"] = item.error ? error_json(*item.error) : nlohmann::ordered_json();
  report_.print_line(line);
}

}  // namespace polykv::cli
