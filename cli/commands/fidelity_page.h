// stats --html FILE: plan and fidelity of a pool, as a page.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/commands/pool_memory.h"
#include "cli/options.h"
#include "cli/report.h"
#include "format/reader.h"

namespace polykv::cli {

// One file, well-formed as XML too: no script, nothing from elsewhere, light or dark as the reader's system is.
// Everything that the pool says is escaped. `fidelity` may be any object, or null; what is missing or wrong in it is
// not drawn, and a sentence says so. The document's text is on it if the pool does not keep all positions. Errors: as
// PoolReader::source_text.
format::Result<std::string> fidelity_page(const std::string& path, const format::PoolReader& reader,
                                          const PoolMemory& memory, const nlohmann::ordered_json& fidelity);

// Writes it to options.html for the one pool of options.operands; says its errors and returns the exit status.
// `schema` is the command's, for its errors as JSON.
int write_fidelity_page(const Options& options, const char* schema, Report& report);

}  // namespace polykv::cli
