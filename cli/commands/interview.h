// Puts questions to a pool, several at a time, and prints the answers in the order of the questions.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "cli/commands/desk.h"
#include "cli/commands/questions.h"
#include "cli/commands/save_card.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/runtime/agent.h"
#include "cli/runtime/scheduler.h"

namespace polykv::cli {

class Interview {
 public:
  // All must outlive the interview. `load_ms` and `seed` are what --json reports.
  Interview(const Options& options, Report& report, Desk& desk, runtime::AnswerOptions answer_options, double load_ms,
            const runtime::CardBits& card_bits);

  // Takes all questions there are, options.agents at a time; the exit status. A question that fails is reported in its
  // place, and the others go on.
  int run(QuestionSource& questions);

 private:
  // A question that was taken and is not yet printed whole.
  struct Item {
    Question question;
    std::unique_ptr<runtime::Agent> agent;  // null: the question failed
    std::optional<format::Error> error;     // why
    std::optional<SavedCard> card = {};

    bool is_finished() const { return agent == nullptr || agent->is_finished(); }
  };

  bool prints_text() const { return !options_.json && !options_.jsonl; }
  format::Status go_on(QuestionSource& questions);
  format::Status take_questions(QuestionSource& questions);
  Item start(Question question) const;
  format::Status save(Item& item);
  format::Status print_items();
  void print_text(Item& item);
  void print_json(const Item& item);

  const Options& options_;
  Report& report_;
  Desk& desk_;
  runtime::Scheduler scheduler_;
  runtime::AnswerOptions answer_options_;
  double load_ms_;
  runtime::CardBits card_bits_;
  const std::string* failed_path_;          // what an error that ends the interview is about
  std::deque<Item> items_;                  // oldest first
  std::vector<runtime::Agent*> in_flight_;  // agents of items_ that are not finished, oldest first
  bool at_end_ = false;                     // no question is left to take
  bool front_begun_ = false;                // text of the oldest item was printed
  std::size_t num_printed_ = 0;
  std::size_t num_failed_ = 0;
};

}  // namespace polykv::cli
