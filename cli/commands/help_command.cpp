#include "cli/commands/commands.h"
#include "cli/help.h"

namespace polykv::cli {

int run_help(const Options& options, Report& report) {
  // check_complete has seen that the name is a command's.
  const CommandSpec* command = options.operands.empty() ? nullptr : find_command(options.operands.front());
  report.print(options.man ? man_page(command) : help_text(command, true));
  return 0;
}

}  // namespace polykv::cli
