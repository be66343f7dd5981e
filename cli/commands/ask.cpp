// polykv ask POOL [QUESTION...]: answers straight from the compressed pages.
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands/commands.h"
#include "cli/commands/pool_file.h"
#include "cli/commands/questions.h"
#include "cli/runtime/model_locator.h"
#include "cli/runtime/prompt.h"
#include "cli/runtime/session.h"
#include "cli/runtime/step_runner.h"
#include "cli/signals.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Status;
using Clock = std::chrono::steady_clock;

const Clock::time_point kProcessStart = Clock::now();  // when the program was loaded

std::uint64_t fresh_seed() {
  std::uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
    seed = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
  return seed >> 11;  // 53 bits: a number that every JSON reader keeps whole
}

// Everything that answering needs, opened once.
struct Desk {
  std::unique_ptr<PoolFile> pool;
  runtime::Model model;
  runtime::ChatTemplate chat;
  std::string open_text;
  core::KvPool pages;
  core::Workers workers;
  runtime::StepRunner runner;

  Desk(std::unique_ptr<PoolFile> pool_, runtime::Model model_, runtime::ChatTemplate chat_, std::string open_text_,
       std::size_t num_threads)
      : pool(std::move(pool_)),
        model(std::move(model_)),
        chat(std::move(chat_)),
        open_text(std::move(open_text_)),
        pages(pool->reader),
        workers(num_threads),
        runner(model.file, {&pages}, workers) {}

  // kShrunk or kChanged if the pool or the model was changed under us; once it was, for ever.
  const Status& check_unchanged() {
    if (unchanged_) unchanged_ = pool->file.check_unchanged();
    if (unchanged_) unchanged_ = model.file.check_unchanged();
    return unchanged_;
  }

 private:
  Status unchanged_;
};

// The owner of the model file that will probably be used: a pool of that owner is as trustworthy as the model.
std::uint32_t model_owner(const Options& options) {
  const std::string path = options.model.empty() ? runtime::default_model_path().string() : options.model;
  struct stat information {};
  return stat(path.c_str(), &information) == 0 ? information.st_uid : ~std::uint32_t{0};
}

format::Result<std::unique_ptr<Desk>> open_desk(const Options& options, Report& report) {
  const std::string& path = options.operands.front();
  POLYKV_TRY(auto pool, open_pool_file(path, options.trust, report, model_owner(options)));
  const format::Identity& identity = pool->reader.identity();
  if (options.template_name == "none" && identity.get("template.name") != "none") {
    return Error(ErrorCode::kMismatch, "template.name is " + std::string(identity.get("template.name").value_or("")) +
                                           " in the pool: --template none is only for a pool built with it");
  }
  POLYKV_TRY(auto model, runtime::open_model_for(identity, options.model));
  POLYKV_TRY(auto chat, runtime::chat_template_of(identity, model));
  POLYKV_CHECK_STATUS(runtime::check_fit(identity, model, chat));
  std::string open_text(identity.get("prompt.open_prefix").value_or(""));
  POLYKV_TRY(const std::string text, pool->reader.source_text());
  const std::vector<std::uint32_t>& ends = pool->reader.tokens().text_end;
  open_text += std::string_view(text).substr(ends.empty() ? 0 : ends.back());
  return std::make_unique<Desk>(std::move(pool), std::move(model), std::move(chat), std::move(open_text),
                                options.threads != 0 ? options.threads : core::default_num_threads());
}

// One line of --json or --jsonl. `answer` is null for a question that failed.
nlohmann::ordered_json to_json(const Question& question, const runtime::Answer* answer, const Error* error,
                               std::uint64_t seed, double load_ms, const std::string& pool, const std::string& model) {
  const runtime::Answer none;
  const runtime::Answer& values = answer == nullptr ? none : *answer;
  nlohmann::ordered_json line = {{"schema", "polykv.ask/1"}, {"id", question.id}, {"question", question.text}};
  line["answer"] = answer == nullptr ? nlohmann::ordered_json() : nlohmann::ordered_json(values.text);
  line["stop_reason"] =
      answer == nullptr ? nlohmann::ordered_json() : nlohmann::ordered_json(stop_reason_name(values.stop_reason));
  line["cached_tokens"] = values.cached_tokens;
  line["prompt_tokens"] = values.prompt_tokens;
  line["generated_tokens"] = values.generated_tokens;
  line["seed"] = seed;
  line["load_ms"] = load_ms;
  line["ttft_ms"] = values.ttft_ms;
  line["decode_tok_s"] = values.decode_tok_s;
  line["total_ms"] = values.total_ms;
  line["pool"] = pool;
  line["model"] = model;
  line["error"] = error == nullptr ? nlohmann::ordered_json() : error_json(*error);
  return line;
}

// Answers questions one after another and prints the answers in order.
class Interview {
 public:
  Interview(const Options& options, Report& report, Desk& desk)
      : options_(options), report_(report), desk_(desk), seed_(options.seed ? *options.seed : fresh_seed()) {
    answer_options_.max_tokens = options.max_tokens;
    answer_options_.stop = options.stop;
    answer_options_.sampling = {static_cast<float>(options.temperature), options.top_k,
                                static_cast<float>(options.top_p), static_cast<float>(options.min_p), seed_};
    load_ms_ = std::chrono::duration<double, std::milli>(Clock::now() - kProcessStart).count();
  }

  // An error here ends the run; a question that fails is reported and counted instead.
  Status ask(const Question& question) {
    POLYKV_CHECK_STATUS(desk_.check_unchanged());
    const bool text_mode = !options_.json && !options_.jsonl;
    if (text_mode && num_answers_ > 0) report_.print("\n");
    auto answered = answer(question, text_mode);
    // Before what else went wrong, for a change may be its cause.
    POLYKV_CHECK_STATUS(desk_.check_unchanged());
    if (!answered && answered.error().code != ErrorCode::kUnusableText) return std::move(answered).error();
    ++num_answers_;
    if (!answered) ++num_failed_;
    if (text_mode) {
      if (!answered) report_.error("question " + question.label(), answered.error());
      if (answered && (answered->text.empty() || answered->text.back() != '\n')) report_.print("\n");
    } else {
      const std::string& name = desk_.model.config().name;
      report_.print_line(to_json(question, answered ? &*answered : nullptr, answered ? nullptr : &answered.error(),
                                 seed_, load_ms_, options_.operands.front(),
                                 name.empty() ? desk_.model.file.path().filename().string() : name));
    }
    report_.flush();
    return {};
  }

  bool any_failed() const { return num_failed_ > 0; }
  std::size_t num_answers() const { return num_answers_; }

 private:
  format::Result<runtime::Answer> answer(const Question& question, bool stream) {
    POLYKV_CHECK_STATUS(question.usable);
    const std::vector<runtime::TokenId> prompt =
        runtime::make_question_tokens(desk_.model.tokenizer, desk_.chat, desk_.open_text, question.text);
    return runtime::answer(desk_.runner, desk_.model.file, desk_.model.tokenizer, prompt, answer_options_,
                           [&](std::string_view text) {
                             if (!desk_.check_unchanged()) return false;
                             if (stream && !text.empty()) {
                               report_.print(text);
                               report_.flush();
                             }
                             return report_.can_print() && !stop_requested();
                           });
  }

  const Options& options_;
  Report& report_;
  Desk& desk_;
  std::uint64_t seed_;
  runtime::AnswerOptions answer_options_;
  double load_ms_ = 0.0;
  std::size_t num_answers_ = 0;
  std::size_t num_failed_ = 0;
};

// Takes all questions there are; the exit status.
int interview(const Options& options, QuestionSource& questions, Desk& desk, Report& report) {
  Interview run(options, report, desk);
  while (report.can_print()) {
    if (const Status stopped = check_stop(); !stopped) return report.error({}, stopped.error());
    const auto question = questions.next();
    if (!question) return report.error({}, question.error());
    if (!*question) break;
    if (const Status status = run.ask(**question); !status) {
      if (!report.can_print()) break;
      const Status stopped = check_stop();
      return report.error(options.operands.front(), stopped ? status.error() : stopped.error());
    }
  }
  if (run.num_answers() == 0 && report.can_print()) {
    return report.error(
        {}, Error(ErrorCode::kUnusableText, "no question: give one as an argument, or one a line on standard input"));
  }
  return run.any_failed() ? exit_status(ErrorCode::kItemsFailed) : 0;
}

}  // namespace

int run_ask(const Options& options, Report& report) {
  QuestionSource questions({options.operands.begin() + 1, options.operands.end()}, STDIN_FILENO);
  if (options.json) {
    if (const Status status = questions.require_single(); !status) return report.error({}, status.error());
  }
  auto desk = open_desk(options, report);
  if (!desk) return report.error(options.operands.front(), desk.error());
  if (questions.from_terminal()) report.notice({}, "type a question a line; Ctrl-D ends");
  return interview(options, questions, **desk, report);
}

}  // namespace polykv::cli
