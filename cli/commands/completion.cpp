#include "cli/commands/commands.h"
#include "cli/help.h"

namespace polykv::cli {

int run_completion(const Options& options, Report& report) {
  report.print(completion_script(options.operands.front()));
  return 0;
}

}  // namespace polykv::cli
