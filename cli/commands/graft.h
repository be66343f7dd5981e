// append --graft: a card moved to another pool.
#pragma once

#include "cli/options.h"
#include "cli/report.h"

namespace polykv::cli {

// The exit status.
int run_graft(const Options& options, Report& report);

}  // namespace polykv::cli
