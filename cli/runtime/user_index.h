// What the user's own files are called by what is in them: $XDG_DATA_HOME/polykv/NAME.json, {"schema": "polykv.NAME/1",
// NAME: {digest: path}}. A convenience: what cannot be read counts as empty, what cannot be written is not said.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace polykv::runtime {

enum class UserIndex { kModels, kPools };  // by SHA-256 of a model's weights; of a pool's superblock

// Empty: nothing is known.
std::filesystem::path find_indexed(UserIndex index, std::string_view digest);

void remember_path(UserIndex index, const std::string& digest, const std::filesystem::path& path);

}  // namespace polykv::runtime
