// What --retain and --keep of build ask for, and --tail-retain and --tail-keep of ask: a policy, `auto`, or a plan's
// file.
#pragma once

#include <optional>
#include <string>

#include "cli/options.h"
#include "cli/runtime/retention/layer_plan.h"
#include "cli/runtime/retention/selection.h"
#include "format/status.h"

namespace polykv::cli {

struct RetainOption {
  std::optional<runtime::RetentionChoice> choice;  // empty: nothing was said
  std::optional<runtime::LayerPlan> plan;          // that the choice is made from
  std::string plan_path;
};

// Errors: kUsage; those of reading a plan, naming its file.
format::Result<RetainOption> read_retain_option(const Options& options);
format::Result<RetainOption> read_tail_retain_option(const Options& options);

// kMismatch, naming the plan's file, if there is a plan and it is for another model.
format::Status check_plan_fits(const RetainOption& retain, const runtime::Model& model);

}  // namespace polykv::cli
