// Documents as the command line names them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cli/runtime/pool_builder.h"
#include "format/status.h"

namespace polykv::cli {

// Each "-" (standard input), a text file, or a pool of any version, whose own source text it is. Errors: those of
// reading, naming the file; those of check_documents.
format::Result<std::vector<runtime::Document>> read_documents(std::span<const std::string> paths);

}  // namespace polykv::cli
