// polykv ask POOL [QUESTION...]: answers straight from the compressed pages.
#include <sys/random.h>
#include <unistd.h>

#include <chrono>

#include "cli/commands/card_options.h"
#include "cli/commands/commands.h"
#include "cli/commands/desk.h"
#include "cli/commands/interview.h"
#include "cli/commands/questions.h"
#include "cli/commands/retain_option.h"
#include "cli/runtime/cards/controller.h"

namespace polykv::cli {
namespace {

using Clock = std::chrono::steady_clock;

const Clock::time_point kProcessStart = Clock::now();  // when the program was loaded

std::uint64_t fresh_seed() {
  std::uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
    seed = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
  return seed >> 11;  // 53 bits: a number that every JSON reader keeps whole
}

// Why only one question can be answered; null: as many as there are.
const char* one_question_option(const Options& options) {
  if (options.json) return "--json answers one question; --jsonl prints one object a line for several";
  if (!options.save.empty()) return "--save keeps one question and its answer; ask again for another card";
  return nullptr;
}

}  // namespace

int run_ask(const Options& options, Report& report) {
  const auto tail = read_tail_retain_option(options);
  if (!tail) return report.error({}, tail.error());
  QuestionSource questions({options.operands.begin() + 1, options.operands.end()}, STDIN_FILENO);
  const auto card_bits = check_save_options(options);
  if (!card_bits) return report.error({}, card_bits.error());
  if (const char* option = one_question_option(options)) {
    if (const format::Status status = questions.require_single(option); !status)
      return report.error({}, status.error());
  }
  auto desk = open_desk(options.operands.front(), options, report);
  if (!desk) return report.error(options.operands.front(), desk.error());
  if (const auto status = check_plan_fits(*tail, (*desk)->model); !status) return report.error({}, status.error());
  if (const auto status = refuse_parent(options.save, (*desk)->chain); !status) return report.error({}, status.error());
  if (card_bits->kind == runtime::CardBits::Kind::kLearned) {
    if (const auto controller = runtime::open_controller((*desk)->model); !controller)
      return report.error({}, controller.error());
  }
  if (questions.from_terminal()) report.notice({}, "type a question a line; Ctrl-D ends");
  const double load_ms = std::chrono::duration<double, std::milli>(Clock::now() - kProcessStart).count();
  // All questions of a run have one seed, so that an answer depends on neither its place nor on the questions before.
  const std::uint64_t seed = options.seed ? *options.seed : fresh_seed();
  const runtime::AnswerOptions answers{options.max_tokens,
                                       {static_cast<float>(options.temperature), options.top_k,
                                        static_cast<float>(options.top_p), static_cast<float>(options.min_p), seed},
                                       options.stop,
                                       tail->choice,
                                       !options.save.empty()};
  return Interview(options, report, **desk, answers, load_ms, *card_bits).run(questions);
}

}  // namespace polykv::cli
