// The rows of the option table, by command. cli/options.h is for everybody else.
#pragma once

#include "cli/options.h"

namespace polykv::cli {

// Commands that make pools or answer from them: command_rows_making.cpp.
CommandSpec build_command();
CommandSpec append_command();
CommandSpec ask_command();
CommandSpec flatten_command();
CommandSpec calibrate_command();

// Commands that read pools, and those about the program: command_rows_reading.cpp.
CommandSpec inspect_command();
CommandSpec verify_command();
CommandSpec stats_command();
CommandSpec export_command();
CommandSpec bench_command();
CommandSpec completion_command();
CommandSpec help_command();

// Options that several commands have.
OptionSpec model_option();
OptionSpec threads_option();
OptionSpec prefill_type_option();
OptionSpec mode_option();
OptionSpec sender_option(const char* help);
OptionSpec card_bits_option(const char* help);
OptionSpec pool_path_option();
OptionSpec json_option(const char* help);
OptionSpec force_option();

}  // namespace polykv::cli
