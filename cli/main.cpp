// The program polykv: arguments in, exit status out.
#include <unistd.h>

#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "cli/commands/commands.h"
#include "cli/signals.h"

int main(int argc, char** argv) {
  using namespace polykv;
  cli::install_signal_handlers();
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  const auto options = cli::parse_options(arguments, [](const char* name) { return std::getenv(name); });
  if (!options) return cli::Report(STDOUT_FILENO, STDERR_FILENO, {}).error("", options.error());
  cli::Report report(STDOUT_FILENO, STDERR_FILENO, {.quiet = options->quiet, .progress = !options->no_progress});
  try {
    return report.finish(cli::run_command(*options, report));
  } catch (const std::bad_alloc&) {
    return report.error("", format::Error(format::ErrorCode::kFailed, "out of memory"));
  }
}
