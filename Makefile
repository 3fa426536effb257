# SPDX-License-Identifier: MIT
# `make` alone lists what there is to do.

# --- Settings, each can be given on the command line -----------------------------------------

# Where everything that is built goes.
BUILD ?= build
# Optimisation and debugging; the warnings below stay.
CFLAGS ?= -O2 -g
# -Werror where a warning must stop the build (`make check`).
WERROR ?=
# Spec files or folders to run, and more options for busted.
SPECS ?= spec
BUSTED_FLAGS ?=
# How many seconds `make fuzz` spends on each target.
FUZZ_SECONDS ?= 60
# How many seeds `make shuffle` tries, and from which on; SEEDS=1 FIRST_SEED=n tries one again.
SEEDS ?= 10
FIRST_SEED ?= 1
# How long `make soak` runs.
MINUTES ?= 10

# The interpreter, and the name that pkg-config knows its headers by.
LUA := $(firstword $(foreach name,lua5.4 lua54 lua,$(shell command -v $(name))) lua5.4)
LUA_PC := $(firstword $(foreach name,lua5.4 lua54 lua-5.4 lua,\
	$(shell pkg-config --exists $(name) 2>/dev/null && echo $(name))) lua5.4)

# --- How C is compiled and linked ------------------------------------------------------------

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes \
	-Wmissing-prototypes -Wold-style-definition -Wpointer-arith -Wwrite-strings -Wvla -Wundef
SANITIZE =
COMPILE = $(CC) -std=c11 -D_GNU_SOURCE $(WARNINGS) $(WERROR) $(CFLAGS) $(SANITIZE) \
	-fPIC -fvisibility=hidden -pthread -Iinclude \
	$(LIBRARY_CFLAGS)

LIBRARY_CFLAGS := $(shell pkg-config --cflags $(LUA_PC) libuv 2>/dev/null)
UV_LIBS := $(shell pkg-config --libs libuv 2>/dev/null)
LUA_LIBS := $(shell pkg-config --libs $(LUA_PC) 2>/dev/null)

ifeq ($(shell uname -s),Darwin)
MODULE_FLAGS = -bundle -undefined dynamic_lookup
else
# nodelete: lua_close must not unmap the module under a thread that was detached.
MODULE_FLAGS = -shared -Wl,-z,nodelete
endif

SOURCES := $(sort $(wildcard csrc/*.c))
OBJECTS := $(SOURCES:csrc/%.c=$(BUILD)/obj/%.o)
HOST_OBJECTS := $(patsubst %,$(BUILD)/obj/host/%.o,host faults sanitizer)
MODULE := $(BUILD)/concur/core.so
TESTHOST := $(BUILD)/testhost
# The same objects again, with what they call wrapped: a module for the test host alone, where calls
# can fail and threads can be held up (spec/host/wraps.c).
FAULT_MODULE := $(BUILD)/faults/concur/core.so
WRAPPED := $(shell sed -nE 's/^(void|int) .?__wrap_([a-z]+).*;$$/\2/p; s/^DELAYS.([a-z_]+),.*/\1/p; \
	s/^(REFUSES|DELAYS_RESULT).[^,]*, ([a-z_]+),.*/\2/p' spec/host/wraps.c)
# C modules for the specs, and the examples: of concur they include nothing but include/concur.h.
CAPI_MODULES := $(patsubst %.c,$(BUILD)/%.so,$(notdir $(wildcard spec/capi/*.c))) \
	$(patsubst %,$(BUILD)/%.so,lines csqlite czlib) $(BUILD)/capi_host
# The module with checks for the wrong thread (CONCUR_DEBUG), which only one file does.
DEBUG_MODULE := $(BUILD)/debug/concur/core.so
# Programs that embed Lua in ways of their own: spec/host_spec.lua runs them.
HOSTS := $(patsubst spec/host/%.c,$(BUILD)/%,$(wildcard spec/host/host_*.c))
# What the specs need besides the module itself.
TEST_BUILDS := $(TESTHOST) $(FAULT_MODULE) $(DEBUG_MODULE) $(CAPI_MODULES) $(HOSTS)

# What a Lua program needs in order to find concur in this tree.
RUN = LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" \
	LUA_CPATH="$(abspath $(BUILD))/?.so;;"
RUN_FAULTS = LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" \
	LUA_CPATH="$(abspath $(BUILD))/faults/?.so;$(abspath $(BUILD))/?.so;;"
# An interpreter that was itself built with the sanitizer, where there is one.
TEST_LUA ?= $(LUA)
BUSTED = $(RUN) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(TEST_LUA) $(TEST_ENV) \
	$(TEST_WRAPPER) $(TEST_LUA) scripts/busted.lua $(BUSTED_FLAGS) $(SPECS)

# Set-up may have installed pkg-config a moment ago: what follows it runs in a new make.
SUBMAKE = $(MAKE) --no-print-directory

# --- The list --------------------------------------------------------------------------------

.DEFAULT_GOAL := help
.PHONY: help
help:
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
	  | awk -F'|' '{ printf "%-22s%s\n", $$1, $$2 }'
	@echo "Settings: BUILD= CC= CFLAGS= LUA= SPECS= BUSTED_FLAGS= (see the head of the Makefile)"

# --- Using it --------------------------------------------------------------------------------

.PHONY: demo test build install clean
demo: build ## hash a directory tree on all cores (DIR=/usr/include, ARGS=...)
	@scripts/setup demo
	@$(RUN) $(LUA) examples/hash_tree.lua $(DIR) $(ARGS)

test: build ## run the specs (SPECS=spec/queue_spec.lua for some of them)
	@scripts/setup test
	@$(SUBMAKE) $(TEST_BUILDS) specs

build: ## compile the C core into build/concur/core.so
	@scripts/setup build
	@$(SUBMAKE) $(MODULE)

install: ## install the rock with luarocks (LUAROCKS_FLAGS=--local, ...)
	@scripts/setup build rock
	luarocks --lua-version 5.4 $(LUAROCKS_FLAGS) make

clean: ## remove everything that was built
	rm -rf $(BUILD) concur csrc/*.o

.PHONY: bench bench-sweep bench-memory bench-report bench-instructions bench-cores
bench: build ## compare with the raw limit and with the peers (BENCH="--rounds 9 echo queue_64")
	@scripts/setup bench || echo "going on without the missing peers"
	@$(RUN) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(LUA) $(LUA) bench/run.lua $(BENCH)

bench-sweep: build ## how cost grows with tasks, timers, queues, connections, jobs and workers
	@scripts/setup build
	@$(RUN) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(LUA) $(LUA) bench/sweep.lua $(BENCH)

bench-memory: build ## bytes of a task, a timer, a stream, a worker
	@$(RUN) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(LUA) $(LUA) bench/memory.lua

bench-report: ## all of these, and their results into docs/performance.md (on a quiet machine)
	@$(SUBMAKE) bench
	@$(SUBMAKE) bench-cores BENCH=
	@$(SUBMAKE) bench-memory
	@$(SUBMAKE) bench-sweep BENCH=
	@CONCUR_BUILD=$(BUILD) $(LUA) bench/publish.lua

bench-cores: build ## the echo server on one and on two worker threads (reuseport)
	@scripts/setup build
	@$(RUN) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(LUA) $(LUA) bench/echo_cores.lua $(BENCH)

bench-instructions: build ## count instructions per operation: no row may grow
	@scripts/setup build valgrind
	@$(RUN) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(LUA) $(LUA) bench/instructions.lua $(BENCH)

# --- Checking it -----------------------------------------------------------------------------

.PHONY: check lint types elsewhere docs-check random stress-processes stress-servers
check: lint test bench-instructions fuzz-brief ## exactly what CI runs

lint: build ## luacheck, drift of types/, and C without a warning from gcc and clang
	@scripts/setup lint
	luacheck -q $(wildcard lua spec scripts examples bench fuzz) .busted concur-scm-1.rockspec
	$(LUA) scripts/types.lua --check
	@$(SUBMAKE) BUILD=$(BUILD)/lint WERROR=-Werror objects
	@if command -v clang >/dev/null; then \
	  $(SUBMAKE) BUILD=$(BUILD)/lint-clang CC=clang WERROR=-Werror objects; \
	else echo "clang is not installed: only $(CC) was tried"; fi

types: build ## write types/ (LuaLS definitions) from the annotations in the sources
	$(LUA) scripts/types.lua

random: ## 10,000 random programs (CONCUR_PROGRAMS=..., CONCUR_SEED=...)
	@CONCUR_PROGRAMS=$${CONCUR_PROGRAMS:-10000} $(SUBMAKE) test SPECS=spec/random_programs_spec.lua

stress-processes: ## 5,000 child processes in every way (CONCUR_CHILDREN=...)
	@CONCUR_CHILDREN=$${CONCUR_CHILDREN:-5000} $(SUBMAKE) test SPECS=spec/process_stress_spec.lua

stress-servers: build ## wrk and redis-benchmark against the example servers (BENCH="--seconds 10")
	@scripts/setup test load
	@$(RUN) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(LUA) $(LUA) bench/servers.lua $(BENCH)

.PHONY: connections
connections: ## a server with 10,000 connections at a time (CONCUR_CONNECTIONS=...)
	@ulimit -n $$(ulimit -H -n) && CONCUR_CONNECTIONS=$${CONCUR_CONNECTIONS:-10000} \
	  $(SUBMAKE) test SPECS=spec/net_serve_spec.lua BUSTED_FLAGS=--filter=many

elsewhere: ## the specs with another Lua, from its sources (LUA_SOURCE=lua-5.4.8)
	@scripts/elsewhere "$(LUA_SOURCE)" $(BUILD) $(if $(filter-out spec,$(SPECS)),SPECS="$(SPECS)")

docs-check: ## run every code block of the documentation and every example
	@$(SUBMAKE) test SPECS="spec/docs_spec.lua spec/examples_spec.lua"

# --- The same specs under other conditions ---------------------------------------------------

# The sanitizers need an interpreter that carries their runtime: the test host is one.
ASAN_FLAGS = SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer"
ASAN_BUILD = BUILD=$(BUILD)/asan CFLAGS="-O1 -g -DCONCUR_DEBUG" $(ASAN_FLAGS)
# Workers take their memory in chunks, as they do in use: what can fail is what can fail there.
FAULTS_BUILD = BUILD=$(BUILD)/asan-faults $(ASAN_FLAGS) \
	CFLAGS="-O1 -g -DCONCUR_DEBUG -DCONCUR_SMALL_BLOCKS=1"
ASAN_ENV = CONCUR_TIME_SCALE=4 \
	ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1 \
	UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
TSAN_BUILD = BUILD=$(BUILD)/tsan CFLAGS="-O1 -g -DCONCUR_DEBUG" \
	SANITIZE="-fsanitize=thread -fno-omit-frame-pointer"
TSAN_ENV = CONCUR_TIME_SCALE=8 CONCUR_FAULTS=few \
	TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:suppressions=$(CURDIR)/spec/support/tsan.supp
VALGRIND = valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite \
	--fair-sched=yes

# Its figures go to $(BUILD)/asan-faults/faults.tsv: spec, what failed, times in a row, runs, calls, s.
FAULT_SPECS ?= $(wildcard spec/*fault*_spec.lua spec/oom*_spec.lua)

.PHONY: asan tsan valgrind gc gc-generational faults shuffle shuffle-tsan soak analyze coverage
asan: ## the specs under AddressSanitizer (with leak check) and UBSan
	@scripts/setup build test sanitizers
	@$(SUBMAKE) sanitized $(ASAN_BUILD) TEST_ENV='$(ASAN_ENV)'

tsan: ## the specs under ThreadSanitizer
	@scripts/setup build test sanitizers
	@$(SUBMAKE) sanitized $(TSAN_BUILD) TEST_ENV='$(TSAN_ENV)'

valgrind: ## the specs under valgrind's memcheck (slow)
	@scripts/setup valgrind
	@$(SUBMAKE) test TEST_ENV="CONCUR_TIME_SCALE=30 CONCUR_FAULTS=few" TEST_WRAPPER='$(VALGRIND)'

gc: ## the specs under a collector that never rests
	@$(SUBMAKE) test \
	  TEST_ENV="CONCUR_TIME_SCALE=4 LUA_INIT='collectgarbage(\"incremental\",1,1000,1)'"

gc-generational: ## the specs under the generational collector
	@$(SUBMAKE) test TEST_ENV="LUA_INIT='collectgarbage(\"generational\")'"

faults: ## every call that can fail does: memory, threads, descriptors, ... (under ASan)
	@scripts/setup build test sanitizers
	@$(SUBMAKE) sanitized $(FAULTS_BUILD) TEST_ENV='$(ASAN_ENV) CONCUR_FAULTS=all' \
	  SPECS="$(FAULT_SPECS)"

shuffle: build ## the specs with ready tasks shuffled and threads held up (SEEDS=300 FIRST_SEED=1)
	@scripts/setup test
	@$(SUBMAKE) shuffled

shuffle-tsan: ## the same under ThreadSanitizer
	@scripts/setup build test sanitizers
	@$(SUBMAKE) shuffled $(TSAN_BUILD) TEST_LUA=$(abspath $(BUILD))/tsan/testhost TEST_ENV='$(TSAN_ENV)'

soak: ## mixed load with invariants, memory and descriptors and threads flat (MINUTES=10)
	@scripts/setup build test sanitizers
	@$(SUBMAKE) soaked $(ASAN_BUILD)

analyze: ## gcc -fanalyzer, clang-tidy and clang -Weverything over the C sources
	@scripts/setup build analyze
	@$(SUBMAKE) analyzed

coverage: ## line and branch coverage of the C core (build/coverage/index.html)
	@scripts/setup build test coverage
	@$(SUBMAKE) covered BUILD=$(BUILD)/coverage SANITIZE=--coverage \
	  CFLAGS="-O0 -g -fprofile-update=atomic -include scripts/coverage.h" LDFLAGS=-Wl,--exclude-libs,libgcov.a

.PHONY: fuzz fuzz-brief fuzz-c fuzz-lua
fuzz: ## random bytes for the decoder, random calls of the API (FUZZ_SECONDS=600 for each)
	@scripts/setup build sanitizers fuzz
	@$(SUBMAKE) fuzz-c BUILD=$(BUILD)/fuzz CC=clang CFLAGS="-O1 -g" \
	  SANITIZE="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
	@$(SUBMAKE) fuzz-lua $(ASAN_BUILD)

# A minute in all, without installing anything.
fuzz-brief: $(MODULE) $(TESTHOST)
	$(RUN) $(TESTHOST) fuzz/api_fuzz.lua --seconds 20
	@if command -v clang >/dev/null; then \
	  $(SUBMAKE) fuzz-c BUILD=$(BUILD)/fuzz CC=clang CFLAGS="-O1 -g" FUZZ_SECONDS=13 \
	    SANITIZE="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"; \
	else echo "clang is not installed: only the API was fuzzed"; fi

# One program for each fuzz/x_fuzz.c. What it finds new goes to build/fuzz/corpus/x.
FUZZERS := $(patsubst fuzz/%_fuzz.c,%,$(wildcard fuzz/*_fuzz.c))
fuzz-c: $(FUZZERS:%=$(BUILD)/%_fuzz)
	@for name in $(FUZZERS); do \
	  mkdir -p $(BUILD)/corpus/$$name && \
	  $(BUILD)/$${name}_fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=10 -verbosity=0 \
	    -print_final_stats=1 $(BUILD)/corpus/$$name fuzz/corpus/$$name || exit 1; \
	done

$(BUILD)/%_fuzz: fuzz/%_fuzz.c $(OBJECTS)
	$(COMPILE) -fsanitize=fuzzer -Icsrc -o $@ $^ $(LDFLAGS) $(UV_LIBS) $(LUA_LIBS) -lm

fuzz-lua: $(MODULE) $(TESTHOST)
	$(RUN) $(ASAN_ENV) $(TESTHOST) fuzz/api_fuzz.lua --seconds $(FUZZ_SECONDS)
	$(RUN) $(ASAN_ENV) $(TESTHOST) fuzz/executor_fuzz.lua --seconds $(FUZZ_SECONDS) --processes 1
	$(RUN) $(ASAN_ENV) $(TESTHOST) fuzz/api_fuzz.lua --seconds $(FUZZ_SECONDS) --network

# Helpers of the targets above.
.PHONY: objects sanitized shuffled soaked analyzed covered specs
objects: $(OBJECTS) $(HOST_OBJECTS) $(BUILD)/obj/host/wraps.o $(CAPI_MODULES) $(HOSTS)

specs:
	$(BUSTED)

sanitized: $(MODULE) $(TEST_BUILDS)
	@$(SUBMAKE) specs TEST_LUA=$(abspath $(TESTHOST))

# What is about tasks, their order and threads; the others look at sources or run other programs.
SHUFFLED = barrier cancel_everywhere capacity_limiter channel clock condition context_var deadlock \
	event executor future gather group kill lock loop net pcall queue race random_programs run \
	scope select semaphore settle shield shuffle stranger stream_read stream_write structured_top_level suspend \
	tampered task task_cancel timeout toplevel udp wait wait_fd wrap
SHUFFLED_SPECS = $(wildcard $(SHUFFLED:%=spec/%_spec.lua))

shuffled: $(TEST_BUILDS)
	@for seed in $$(seq $(FIRST_SEED) $$(($(FIRST_SEED) + $(SEEDS) - 1))); do \
	  $(RUN_FAULTS) CONCUR_BUILD=$(BUILD) CONCUR_LUA=$(TEST_LUA) $(TEST_ENV) CONCUR_SHUFFLE=$$seed \
	    $(TESTHOST) scripts/busted.lua --suppress-pending $(BUSTED_FLAGS) \
	    $(or $(filter-out spec,$(SPECS)),$(SHUFFLED_SPECS)) >$(BUILD)/shuffle.log 2>&1 || { \
	    cat $(BUILD)/shuffle.log; \
	    echo "seed $$seed failed; again: make shuffle SEEDS=1 FIRST_SEED=$$seed"; exit 1; }; \
	  echo "seed $$seed: $$(grep successes $(BUILD)/shuffle.log)"; \
	done

# What is freed is soon used again, so that memory can be seen to be flat.
SOAK_ENV = $(subst detect_leaks=1,detect_leaks=1:quarantine_size_mb=4,$(ASAN_ENV))
soaked: $(MODULE) $(TESTHOST)
	$(RUN) CONCUR_BUILD=$(BUILD) $(SOAK_ENV) $(TESTHOST) spec/soak.lua $(MINUTES) $(CONCUR_SEED)

# The core, and C that is linked with it or shows how to use it. Not: tests of one part that stand
# alone (spec/host/*_test.c, slow_names.c) and benchmarks, which end when anything fails.
ANALYZED := $(basename $(SOURCES) $(wildcard $(addsuffix /*.c,examples/capi spec/capi fuzz)) \
	$(addprefix spec/host/,host.c faults.c wraps.c))
analyzed: $(ANALYZED:%=$(BUILD)/analyzed/%.gcc) $(ANALYZED:%=$(BUILD)/analyzed/%.tidy)

ANALYZE_FLAGS = $(filter-out $(CC),$(COMPILE)) -iquote csrc \
	-include scripts/analyze.h -DANALYZING_$(notdir $*)
ANALYZE_GCC = -fanalyzer -Wnull-dereference -Wduplicated-cond -Wduplicated-branches -Wlogical-op
# All that clang knows, but for: other people's style (declarations in the middle, padding, macros of
# the system); casts, which container_of and Lua's continuations are made of; `return luaL_error()`,
# whose return is never reached, and what could be said of functions that end so.
ANALYZE_CLANG = -Weverything -Wno-declaration-after-statement -Wno-padded \
	-Wno-disabled-macro-expansion -Wno-atomic-implicit-seq-cst -Wno-reserved-identifier \
	-Wno-reserved-macro-identifier -Wno-bad-function-cast -Wno-cast-qual \
	-Wno-unreachable-code-return -Wno-unreachable-code-break -Wno-missing-noreturn
ANALYZE_HEADERS := scripts/analyze.h $(wildcard csrc/*.h include/*.h)

# Written for those who compile with fewer warnings than we do. They know nothing of concur_taken
# (platform.h); clang-tidy looks for leaks there, too.
$(BUILD)/analyzed/examples/%: WARNINGS = -Wall -Wextra -Wpedantic
$(BUILD)/analyzed/examples/%: ANALYZE_CLANG =
$(BUILD)/analyzed/examples/%.gcc: ANALYZE_GCC += -Wno-analyzer-malloc-leak

$(BUILD)/analyzed/%.gcc: %.c $(ANALYZE_HEADERS)
	@mkdir -p $(@D)
	gcc $(ANALYZE_FLAGS) -Werror $(ANALYZE_GCC) -c -o $@ $<

$(BUILD)/analyzed/%.tidy: %.c .clang-tidy $(wildcard */.clang-tidy) $(ANALYZE_HEADERS)
	@mkdir -p $(@D)
	clang-tidy --quiet --warnings-as-errors='*' $< -- $(ANALYZE_FLAGS) $(ANALYZE_CLANG)
	@touch $@

covered: $(MODULE) $(TEST_BUILDS)
	@find $(BUILD) -name '*.gcda' -delete
	@$(SUBMAKE) specs TEST_ENV="CONCUR_TIME_SCALE=2"
	gcovr --root . --filter csrc/ --object-directory $(BUILD)/obj --print-summary \
	  --html-details $(BUILD)/index.html --fail-under-line 95 --fail-under-branch 85

# --- Compiling -------------------------------------------------------------------------------

$(MODULE): $(OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SANITIZE) $(MODULE_FLAGS) -pthread -o $@ $(OBJECTS) $(LDFLAGS) $(UV_LIBS)

$(BUILD)/obj/%.o: csrc/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) -MMD -MP -c -o $@ $<

$(BUILD)/obj/host/%.o: spec/host/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) -MMD -MP -c -o $@ $<

C_MODULE = $(COMPILE) $(MODULE_FLAGS) -fvisibility=default -o $@ $< $(LDFLAGS) $(C_MODULE_LIBS)
$(BUILD)/csqlite.so: C_MODULE_LIBS = -lsqlite3
$(BUILD)/czlib.so: C_MODULE_LIBS = -lz
# Written for those who compile with fewer warnings than we do.
$(BUILD)/lines.so: WARNINGS = -Wall -Wextra -Wpedantic

$(BUILD)/%.so: spec/capi/%.c include/concur.h $(BUILD)/flags
	$(C_MODULE)

$(BUILD)/%.so: examples/capi/%.c include/concur.h $(BUILD)/flags
	$(C_MODULE)

$(BUILD)/capi_host: examples/capi/host.c include/concur.h $(BUILD)/flags
	$(COMPILE) -rdynamic -o $@ $< $(LDFLAGS) $(LUA_LIBS) -ldl -lm

# -rdynamic lets the modules that it loads use its Lua, wherever that comes from.
$(TESTHOST): $(HOST_OBJECTS)
	$(CC) $(CFLAGS) $(SANITIZE) -rdynamic -pthread -o $@ $^ $(LDFLAGS) $(LUA_LIBS) -ldl -lm

$(HOSTS): $(BUILD)/%: $(BUILD)/obj/host/%.o $(BUILD)/obj/host/sanitizer.o
	$(CC) $(CFLAGS) $(SANITIZE) -rdynamic -pthread -o $@ $^ $(LDFLAGS) $(LUA_LIBS) -ldl -lm

$(FAULT_MODULE): $(OBJECTS) $(BUILD)/obj/host/wraps.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SANITIZE) $(MODULE_FLAGS) $(WRAPPED:%=-Wl,--wrap=%) -pthread -o $@ $^ \
	  $(LDFLAGS) $(UV_LIBS)

$(BUILD)/obj/debug/%.o: csrc/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) -DCONCUR_DEBUG -MMD -MP -c -o $@ $<

$(DEBUG_MODULE): $(filter-out %/capi_state.o,$(OBJECTS)) $(BUILD)/obj/debug/capi_state.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SANITIZE) $(MODULE_FLAGS) -pthread -o $@ $^ $(LDFLAGS) $(UV_LIBS)

# Changes when the commands do: then everything is compiled again.
.PHONY: force
$(BUILD)/flags: force
	@mkdir -p $(@D)
	@echo '$(COMPILE) $(MODULE_FLAGS)' | cmp -s - $@ || echo '$(COMPILE) $(MODULE_FLAGS)' > $@

-include $(OBJECTS:.o=.d) $(wildcard $(BUILD)/obj/host/*.d) $(BUILD)/obj/debug/capi_state.d
