#include "cli/commands/commands.h"
#include "cli/runtime/program_path.h"
#include "core/kernels/kernels.h"
#include "core/kernels/prefill.h"
#include "format/superblock.h"

namespace polykv::cli {
namespace {

std::string names(const std::vector<const core::KernelTable*>& tables) {
  std::string text;
  for (const core::KernelTable* table : tables) text += (text.empty() ? "" : ", ") + std::string(table->name);
  return text;
}

}  // namespace

int run_version(const Options& options, Report& report) {
  report.print("polykv " POLYKV_VERSION "\n");
  if (!options.verbose) return 0;
  const std::string version = std::to_string(format::kFormatMajor) + "." + std::to_string(format::kFormatMinor);
  const std::string plugin = runtime::prefill_plugin_path();
  const core::PrefillKernels* prefill = core::active_prefill_kernels();
  report.print("pool format: reads " + version + ", writes " + version + "\n" +   //
               "kernels compiled: " + names(core::compiled_kernels()) + "\n" +    //
               "kernels supported: " + names(core::supported_kernels()) + "\n" +  //
               "kernels active: " + core::active_kernels().name + "\n" +          //
               "prefill kernels: " + (prefill == nullptr ? "none; LibTorch does the prefill" : prefill->name) +
               "\n" +  //
               "LibTorch plug-in: " + (plugin.empty() ? "not found" : printable(plugin)) + "\n");
  return 0;
}

}  // namespace polykv::cli
