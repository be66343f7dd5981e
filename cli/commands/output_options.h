// What commands that make pools share.
#pragma once

#include <cstdint>

#include "cli/options.h"
#include "cli/runtime/model_runner.h"
#include "format/status.h"

namespace polykv::cli {

// Before any work: kNotFound, if there is no folder for it; kExists, unless --force is given.
format::Status refuse_existing(const std::string& output, const Options& options);

std::uint64_t source_date_epoch();  // 0 where it is not set

runtime::NumberType prefill_type(const Options& options);

}  // namespace polykv::cli
