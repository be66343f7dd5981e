// Where the program lies: what is installed with it is found relative to it.
#pragma once

#include <filesystem>

namespace polykv::runtime {

// The folder of the running program; empty if the system does not say.
std::filesystem::path program_folder();

// libpolykv_torch.so, without loading it; empty if it is not there.
std::filesystem::path prefill_plugin_path();

// $XDG_CACHE_HOME/polykv and $XDG_DATA_HOME/polykv, or their defaults under $HOME; empty if neither is set.
std::filesystem::path user_cache_folder();
std::filesystem::path user_data_folder();

}  // namespace polykv::runtime
