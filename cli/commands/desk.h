// What `ask` needs to answer questions about a pool, opened once.
#pragma once

#include <memory>
#include <string>

#include "cli/commands/pool_file.h"
#include "cli/options.h"
#include "cli/report.h"
#include "cli/runtime/model_identity.h"
#include "cli/runtime/step_runner.h"
#include "core/pool.h"
#include "core/workers.h"

namespace polykv::cli {

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
  const format::Status& check_unchanged() {
    if (unchanged_) unchanged_ = pool->file.check_unchanged();
    if (unchanged_) unchanged_ = model.file.check_unchanged();
    return unchanged_;
  }

 private:
  format::Status unchanged_;
};

// Opens the pool at `path` and its model and checks that they fit each other.
format::Result<std::unique_ptr<Desk>> open_desk(const std::string& path, const Options& options, Report& report);

}  // namespace polykv::cli
