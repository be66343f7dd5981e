// What every exit status and every error code means, for --help, the man page and the tests.
#pragma once

#include <span>

#include "format/status.h"

namespace polykv::cli {

struct ExitStatusRow {
  int status;
  const char* meaning;
  const char* remedy;  // may be empty
};
std::span<const ExitStatusRow> exit_statuses();

struct ErrorCodeRow {
  format::ErrorCode code;
  const char* meaning;
};
std::span<const ErrorCodeRow> error_codes();

}  // namespace polykv::cli
