// What `ask` needs to answer questions about a pool, opened once.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands/pool_chain.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/step_runner.h"
#include "core/pool.h"
#include "core/workers.h"

namespace polykv::cli {

struct Desk {
  PoolChain chain;
  runtime::Model model;
  runtime::ChatTemplate chat;
  // What is tokenized together with a question; nothing if the chain ends with an answer, which a new turn follows.
  std::optional<std::string> open_text;
  core::Workers workers;
  runtime::StepRunner runner;

  Desk(PoolChain chain_, runtime::Model model_, runtime::ChatTemplate chat_, std::optional<std::string> open_text_,
       std::size_t num_threads)
      : chain(std::move(chain_)),
        model(std::move(model_)),
        chat(std::move(chat_)),
        open_text(std::move(open_text_)),
        workers(num_threads),
        runner(model.file, chain.views(), workers) {}

  // The pool that was named; it may extend others.
  const PoolFile& pool() const { return chain.last(); }
  const core::KvPool& pages() const { return *chain.views().back(); }

  std::vector<runtime::TokenId> question_tokens(std::string_view question) const;

  // kShrunk or kChanged if a pool or the model was changed under us; once it was, for ever.
  const format::Status& check_unchanged() {
    if (unchanged_) unchanged_ = chain.check_unchanged();
    if (unchanged_) unchanged_ = model.file.check_unchanged();
    return unchanged_;
  }

 private:
  format::Status unchanged_;
};

// Opens the pool at `path`, those that it extends and its model, and checks that they fit each other.
format::Result<std::unique_ptr<Desk>> open_desk(const std::string& path, const Options& options, Report& report);

// kUsage, for what only works on a pool that extends none; `what` is the option or command.
format::Status require_base(const Desk& desk, const char* what);

}  // namespace polykv::cli
