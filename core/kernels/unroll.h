// POLYKV_UNROLL before a loop of a small constant count: unrolls it whole.
//
// GCC 12 keeps an array of vectors in registers only if every loop over it is unrolled, and by itself it leaves some:
// the accumulators of a kernel then go through memory in each step (measured: a quarter of the speed).
#pragma once

#if defined(__clang__)
#define POLYKV_UNROLL _Pragma("clang loop unroll(full)")
#define POLYKV_NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define POLYKV_UNROLL _Pragma("GCC unroll 16")
#define POLYKV_NO_UNROLL _Pragma("GCC unroll 1")
#endif
