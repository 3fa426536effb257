/* SPDX-License-Identifier: MIT */
/*
 * Faults and delays on demand.  The test host holds the engine (faults.c); what asks it are
 *   - the wrappers around what concur calls (wraps.c), linked into the second module of a build,
 *     $(BUILD)/faults/concur/core.so;
 *   - the system calls below libuv, which the host shadows (faults.c).
 *
 * One plan at a time for the whole process, any thread may meet it.
 */
#ifndef CONCUR_TEST_FAULTS_H
#define CONCUR_TEST_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FAULTS_EXPORT __attribute__((visibility("default")))
#else
#define FAULTS_EXPORT
#endif

/* What a plan says.  `functions`: names between spaces, as in " malloc calloc ".  The n-th call from
   1 of any of them fails, and the ones after it: `times` in all, or every one if negative.  With
   `one_in`, instead, each call fails with this chance, as the seed says.  `error`: an errno for those
   that set one; 0: the usual one of each. */
typedef struct fault_plan {
  const char *functions; /* borrowed until the plan ends */
  int64_t n;
  int64_t times;
  int error;
  uint64_t one_in; /* 0: n and times count */
  uint64_t seed;
} fault_plan;

/* Begins and ends a plan.  faults_end returns how many calls failed, and is harmless without one. */
void faults_begin(const fault_plan *plan);
int64_t faults_end(void);

/* True if this call of `function` is to fail; *error (if wanted) is then the plan's errno. */
FAULTS_EXPORT bool concur_fault_strikes(const char *function, int *error);

/* Blocks of memory that concur and libuv hold. */
FAULTS_EXPORT void concur_fault_count_block(int change);
int64_t faults_blocks(void);

/* Synchronisation points: yields, sleeps a moment or does nothing, as the seed says. */
FAULTS_EXPORT void concur_fault_pause(void);
void faults_set_delays(uint64_t seed); /* 0: none */

#endif
