// Documents as the command line names them.
#pragma once

#include <string>

#include "cli/runtime/pool_builder.h"
#include "format/status.h"

namespace polykv::cli {

// "-" (standard input), a text file, or a pool of any version, whose own source text it is.
format::Result<runtime::Document> read_document(const std::string& path);

}  // namespace polykv::cli
