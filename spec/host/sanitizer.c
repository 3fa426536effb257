/* SPDX-License-Identifier: MIT */
/*
 * What every program of ours that embeds Lua needs under ThreadSanitizer, and nothing otherwise.
 *
 * A fortified liblua (Debian's) raises its errors with __longjmp_chk, which the sanitizer does not
 * know: it would never see that the functions in between were left, and its own stack overflows.  The
 * module loader finds this one first.                                              [any thread]
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_THREAD_SANITIZER
#endif
#elif defined(__SANITIZE_THREAD__)
#define UNDER_THREAD_SANITIZER
#endif

#ifdef UNDER_THREAD_SANITIZER
#include <setjmp.h>

__attribute__((visibility("default"))) _Noreturn void __longjmp_chk(jmp_buf environment, int value);
_Noreturn void __longjmp_chk(jmp_buf environment, int value) {
  longjmp(environment, value);
}
#else
typedef int nothing_to_do;
#endif
