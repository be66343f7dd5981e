// calibrate --cards: the controller that tells which tokens of a card need their bits.
#pragma once

#include "cli/options.h"
#include "cli/report.h"

namespace polykv::cli {

int run_calibrate_cards(const Options& options, Report& report);

}  // namespace polykv::cli
