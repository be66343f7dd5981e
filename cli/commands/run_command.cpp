#include <array>
#include <string_view>

#include "cli/commands/commands.h"
#include "cli/help.h"
#include "core/kernels/kernels.h"

namespace polykv::cli {
namespace {

struct Entry {
  std::string_view name;
  int (*run)(const Options&, Report&);
};

constexpr std::array<Entry, 12> kEntries = {{{"build", run_build},
                                             {"append", run_append},
                                             {"ask", run_ask},
                                             {"flatten", run_flatten},
                                             {"inspect", run_inspect},
                                             {"verify", run_verify},
                                             {"stats", run_stats},
                                             {"export", run_export},
                                             {"bench", run_bench},
                                             {"calibrate", run_calibrate},
                                             {"completion", run_completion},
                                             {"help", run_help}}};

}  // namespace

int run_command(const Options& options, Report& report) {
  if (options.help || options.short_help) {
    report.print(help_text(options.command, options.help));
    return 0;
  }
  if (options.command == nullptr) return run_version(options, report);
  if (!options.kernels.empty()) {
    if (const auto status = core::select_kernels(options.kernels); !status) return report.error("", status.error());
  }
  for (const Entry& entry : kEntries) {
    if (entry.name == options.command->name) return entry.run(options, report);
  }
  return report.error("", format::Error(format::ErrorCode::kUsage, "no such command"));
}

}  // namespace polykv::cli
