// Which model a command uses: -m, POLYKV_MODEL, the user's index of models that built pools, the default model.
#pragma once

#include <filesystem>
#include <string>

#include "cli/runtime/model_identity.h"
#include "cli/runtime/weights_digest.h"
#include "format/identity.h"
#include "format/status.h"

namespace polykv::runtime {

// The model that set-up put beside the program (.deps/models, share/polykv/models); empty if it is not there.
std::filesystem::path default_model_path();

// Opens weights and tokenizer and takes the digest.
format::Result<Model> open_model(const std::filesystem::path& path, DigestPolicy policy);

// For `build`. `given` is -m or POLYKV_MODEL, empty if neither: a path that does not exist is kNotFound. Empty: the
// default; kMismatch names -m if there is none.
format::Result<std::filesystem::path> locate_model(const std::string& given);

// For a pool: `given` if there is one, else the first of index and default whose weights have the pool's digest.
// kMismatch, naming the model and -m, if none fits.
format::Result<Model> open_model_for(const format::Identity& pool, const std::string& given);

// Remembers where the model with this digest lies ($XDG_DATA_HOME/polykv/models.json). A convenience: failures are
// silent.
void remember_model(const std::string& weights_digest, const std::filesystem::path& path);

}  // namespace polykv::runtime
