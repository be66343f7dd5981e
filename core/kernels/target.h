// POLYKV_TARGET_BEGIN("avx2,fma") ... POLYKV_TARGET_END: functions between them are built for that instruction set.
//
// A region instead of -m flags: a flag would also build the shared templates of every included header for that CPU.
// Include all headers before the region.
#pragma once

#define POLYKV_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define POLYKV_TARGET_BEGIN(isa) POLYKV_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define POLYKV_TARGET_END POLYKV_PRAGMA(clang attribute pop)
#else
#define POLYKV_TARGET_BEGIN(isa) POLYKV_PRAGMA(GCC push_options) POLYKV_PRAGMA(GCC target(isa))
#define POLYKV_TARGET_END POLYKV_PRAGMA(GCC pop_options)
#endif
