// What the program does: one function a command.
//
// Each gets the parsed options, prints results through `report`, reports its own errors, and returns the exit status;
// main() hands that to Report::finish. SIGINT and SIGTERM are polled with cli/signals.h's check_stop().
#pragma once

#include "cli/options.h"
#include "cli/report.h"

namespace polykv::cli {

int run_build(const Options& options, Report& report);
int run_append(const Options& options, Report& report);
int run_ask(const Options& options, Report& report);
int run_flatten(const Options& options, Report& report);
int run_inspect(const Options& options, Report& report);
int run_verify(const Options& options, Report& report);
int run_stats(const Options& options, Report& report);
int run_export(const Options& options, Report& report);
int run_bench(const Options& options, Report& report);
int run_calibrate(const Options& options, Report& report);
int run_completion(const Options& options, Report& report);
int run_help(const Options& options, Report& report);
int run_version(const Options& options, Report& report);

// Chooses the command and, before it, the kernels.
int run_command(const Options& options, Report& report);

}  // namespace polykv::cli
