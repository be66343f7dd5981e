// Finds and loads libpolykv_torch.so: LibTorch costs every process 0.2 s and 59 MB, so it comes only when it is needed.
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "cli/runtime/model_runner.h"
#include "cli/runtime/program_path.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;

constexpr const char* kPluginName = "libpolykv_torch.so";
constexpr const char* kRemedy =
    "; LibTorch does the prefill where the CPU has no AVX512_BF16, and in f32: run ./dev setup in polykv's source "
    "tree, or set POLYKV_TORCH_DIR to the folder of a torch 2.13.0 CPU build (the one with lib/libtorch_cpu.so)";

// POLYKV_TORCH_DIR: loading its libraries first, by name, is what the plug-in's dependencies then resolve to.
format::Status load_libtorch_from_environment() {
  const char* folder = std::getenv("POLYKV_TORCH_DIR");
  if (folder == nullptr || *folder == '\0') return {};
  for (const char* name : {"libc10.so", "libtorch_cpu.so"}) {
    const std::filesystem::path path = std::filesystem::path(folder) / "lib" / name;
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      return Error(ErrorCode::kNoTorch, std::string("POLYKV_TORCH_DIR: ") + dlerror());
    }
  }
  return {};
}

}  // namespace

std::filesystem::path prefill_plugin_path() {
  const std::filesystem::path program = program_folder();
  std::error_code error;
  for (const char* place : {"lib/polykv", "../lib/polykv", "../lib/x86_64-linux-gnu/polykv"}) {
    const std::filesystem::path path = (program / place / kPluginName).lexically_normal();
    if (std::filesystem::exists(path, error)) return path;
  }
  return {};
}

format::Result<std::unique_ptr<PrefillRunner>> load_prefill_runner() {
  const std::filesystem::path path = prefill_plugin_path();
  if (path.empty())
    return Error(ErrorCode::kNoTorch, std::string(kPluginName) + " is not beside the program" + kRemedy);
  // OpenMP's threads sleep between parallel regions instead of spinning: machines are shared, and on a busy one
  // spinning made a prefill ten times slower. libgomp reads this when it is loaded; a value of the user's stays.
  setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
  POLYKV_CHECK_STATUS(load_libtorch_from_environment());
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return Error(ErrorCode::kNoTorch, std::string(dlerror()) + kRemedy);
  const auto create = reinterpret_cast<CreatePrefillRunner>(dlsym(library, kPrefillPluginEntry));
  PrefillRunner* runner = create == nullptr ? nullptr : create(kPrefillPluginVersion);
  if (runner == nullptr) {
    return Error(ErrorCode::kNoTorch, path.string() + " belongs to another version of polykv; install both together");
  }
  return std::unique_ptr<PrefillRunner>(runner);
}

}  // namespace polykv::runtime
