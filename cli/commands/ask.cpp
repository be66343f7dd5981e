// polykv ask POOL [QUESTION...]: answers straight from the compressed pages.
#include <sys/random.h>
#include <unistd.h>

#include <chrono>

#include "cli/commands/commands.h"
#include "cli/commands/desk.h"
#include "cli/commands/interview.h"
#include "cli/commands/questions.h"

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

// --tail-retain and --tail-keep.
format::Result<std::optional<runtime::RetentionChoice>> tail_choice(const Options& options) {
  using format::Error;
  using format::ErrorCode;
  if (options.tail_retain.empty() != (options.tail_keep == 0))
    return Error(ErrorCode::kUsage, "ask: --tail-retain NAME and --tail-keep N go together");
  if (options.tail_retain.empty()) return std::optional<runtime::RetentionChoice>();
  auto choice = runtime::parse_retention(options.tail_retain);
  if (!choice || choice->is_auto || choice->by_head || !choice->policy->tail_rows) {
    std::string names;
    for (const runtime::RetentionPolicy& policy : runtime::retention_policies())
      if (policy.tail_rows) names += (names.empty() ? "" : ", ") + std::string(policy.name);
    return Error(ErrorCode::kUsage, "ask: --tail-retain: '" + options.tail_retain +
                                        "' is not a policy for a tail: " + names + "; with +chunk after it");
  }
  choice->keep_tokens = options.tail_keep;
  return choice;
}

}  // namespace

int run_ask(const Options& options, Report& report) {
  const auto tail = tail_choice(options);
  if (!tail) return report.error({}, tail.error());
  QuestionSource questions({options.operands.begin() + 1, options.operands.end()}, STDIN_FILENO);
  if (options.json) {
    if (const format::Status status = questions.require_single(); !status) return report.error({}, status.error());
  }
  auto desk = open_desk(options.operands.front(), options, report);
  if (!desk) return report.error(options.operands.front(), desk.error());
  if (questions.from_terminal()) report.notice({}, "type a question a line; Ctrl-D ends");
  const double load_ms = std::chrono::duration<double, std::milli>(Clock::now() - kProcessStart).count();
  // All questions of a run have one seed, so that an answer depends on neither its place nor on the questions before.
  const std::uint64_t seed = options.seed ? *options.seed : fresh_seed();
  const runtime::AnswerOptions answers{options.max_tokens,
                                       {static_cast<float>(options.temperature), options.top_k,
                                        static_cast<float>(options.top_p), static_cast<float>(options.min_p), seed},
                                       options.stop,
                                       *tail};
  return Interview(options, report, **desk, answers, load_ms).run(questions);
}

}  // namespace polykv::cli
