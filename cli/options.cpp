#include "cli/options.h"

#include <array>

#include "cli/command_rows.h"

namespace polykv::cli {

std::span<const CommandSpec> commands() {
  static const std::array<CommandSpec, 12> table = {
      build_command(), append_command(), ask_command(),   flatten_command(),   inspect_command(),    verify_command(),
      stats_command(), export_command(), bench_command(), calibrate_command(), completion_command(), help_command()};
  return table;
}

const CommandSpec* find_command(std::string_view name) {
  for (const CommandSpec& command : commands()) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

std::span<const OptionSpec> common_options() {
  static const std::array<OptionSpec, 4> table = {{
      {.name = "kernels",
       .value = "NAME",
       .target = &Options::kernels,
       .kind = ValueKind::kHint,
       .environment = "POLYKV_KERNELS",
       .choices = {"avx512", "avx2", "scalar"},
       .help = "Compute with this table of kernels; refused if the machine cannot run it (see polykv --version -v). "
               "Without it: the best one."},
      {.letter = 'q',
       .name = "quiet",
       .target = &Options::quiet,
       .environment = "POLYKV_QUIET",
       .help = "No notices and no progress on standard error. Errors are still reported."},
      {.name = "no-progress",
       .target = &Options::no_progress,
       .environment = "POLYKV_NO_PROGRESS",
       .help = "No progress line. There is none anyway unless standard error is a terminal."},
      {.name = "trust",
       .target = &Options::trust,
       .environment = "POLYKV_TRUST",
       .help = "Open a pool that others may write to, or that belongs to somebody else."},
  }};
  return table;
}

std::span<const OptionSpec> help_options() {
  static const std::array<OptionSpec, 2> table = {{
      {.letter = 'h', .name = "", .target = &Options::short_help, .help = "Print a short help."},
      {.name = "help", .target = &Options::help, .help = "Print the whole help."},
  }};
  return table;
}

std::span<const OptionSpec> program_options() {
  static const std::array<OptionSpec, 2> table = {{
      {.name = "version", .target = &Options::version, .help = "Print the version."},
      {.letter = 'v',
       .name = "verbose",
       .target = &Options::verbose,
       .help = "With --version: format versions, kernels and the LibTorch plug-in too."},
  }};
  return table;
}

std::vector<const OptionSpec*> options_of(const CommandSpec* command) {
  std::vector<const OptionSpec*> rows;
  const auto add = [&rows](std::span<const OptionSpec> table) {
    for (const OptionSpec& row : table) rows.push_back(&row);
  };
  if (command == nullptr) {
    add(program_options());
  } else {
    add(command->options);
    if (command->common_options) add(common_options());
  }
  add(help_options());
  return rows;
}

}  // namespace polykv::cli
