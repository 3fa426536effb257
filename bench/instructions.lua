-- SPDX-License-Identifier: MIT
-- Instructions per operation, counted by valgrind's callgrind: a figure that does not depend on the
-- machine's mood, so that CI can hold it to a baseline.
--
--     make bench-instructions                 compares with bench/instructions.txt
--     lua5.4 bench/instructions.lua --write   makes a new baseline
--
--     lua5.4 bench/instructions.lua --limit   counts the raw limit too, for their ratio
--
-- Each workload runs twice, with different numbers of batches; the difference of the two counts
-- belongs to the operations alone. The counts of concur's own code repeat exactly (it polls by a
-- virtual clock); those of Lua vary by some percent, because it seeds the hashes of strings anew.

package.path = "bench/?.lua;" .. package.path

local peers = require "harness.peers"
local system = require "harness.system"
local workloads = require "harness.workloads"

local BASELINE = "bench/instructions.txt"
-- How much a row may grow: where Lua, compiler and C library are those of the baseline, and
-- elsewhere, where each of them makes other code.
local TOLERANCE, TOLERANCE_ELSEWHERE = 0.10, 0.25

-- What runs on one thread and does not wait for the clock: name, then batches of the two runs.
local ROWS = {
  { "sleep0_1", 1, 3 },
  { "sleep0_100", 1, 2 },
  { "spawn_result", 1, 4 },
  { "spawn_gather", 2, 5 },
  { "future_ready", 1, 3 },
  { "future_handoff", 1, 3 },
  { "queue_64", 1, 4 },
  { "queue_1", 1, 4 },
  { "lock_free", 1, 4 },
  { "lock_contended", 1, 3 },
  { "event", 1, 3 },
  { "timeout", 1, 3 },
  { "group", 1, 3 },
}

local function fail(text)
  io.stderr:write("bench-instructions: ", text, "\n")
  os.exit(2)
end

local function count(workload, which, batches, out)
  local command = ("timeout 300 %svalgrind --tool=callgrind --callgrind-out-file=%s "
    .. "%s bench/harness/child.lua %s %s 0 %d"):format(peers.environment(), out, peers.lua,
    workload.name, which, batches)
  local pipe <close> = io.popen(command .. " 2>&1")
  local output = pipe:read "a"
  local instructions = output:match "Collected : (%d+)"
  if not pipe:close() or not instructions then
    fail(("%s %s failed:\n%s"):format(workload.name, which, output))
  end
  return tonumber(instructions)
end

local function per_operation(workload, which, row, out)
  local fewer, more = row[2], row[3]
  local difference = count(workload, which, more, out) - count(workload, which, fewer, out)
  return difference / ((more - fewer) * workload.batch)
end

-- {name = {concur=, limit=}} of the committed baseline, and what it was made with; nil if there is
-- none.
local function read_baseline()
  local file <close> = io.open(BASELINE)
  if not file then
    return nil
  end
  local rows, made_with = {}, nil
  for line in file:lines() do
    local name, concur, limit = line:match "^(%S+)%s+([%d.]+)%s+([%d.]+)"
    if name and name ~= "#" then
      rows[name] = { concur = tonumber(concur), limit = tonumber(limit) }
    end
    made_with = made_with or line:match "^# with (.*)"
  end
  return rows, made_with
end

-- What the counts depend on besides the sources.
local function toolchain()
  return table.concat({
    (system.first_line(peers.lua .. " -v") or ""):match "^Lua [%d.]+" or "an unknown Lua",
    system.first_line "cc --version" or "unknown",
    system.first_line "getconf GNU_LIBC_VERSION" or "unknown",
  }, "; ")
end

local function write_baseline(results)
  local file <close> = assert(io.open(BASELINE, "w"))
  file:write("# Instructions per operation, written by `lua5.4 bench/instructions.lua --write`.\n")
  file:write("# with ", toolchain(), "\n")
  file:write(("# %-16s %10s %10s\n"):format("workload", "concur", "limit"))
  for _, result in ipairs(results) do
    file:write(("%-18s %10.1f %10.1f\n"):format(result.name, result.concur, result.limit))
  end
end

local writing = arg[1] == "--write"
local with_limit = writing or arg[1] == "--limit"
local wanted = {}
for i = with_limit and 2 or 1, #arg do
  if arg[i]:sub(1, 1) == "-" then
    fail(("unknown option '%s' (there are --write and --limit)"):format(arg[i]))
  end
  wanted[arg[i]] = true
end
if writing and next(wanted) then
  fail "a baseline is made of all workloads"
end

local build = os.getenv "CONCUR_BUILD" or "build"
local present = peers.find(build)
if not present.concur then
  fail "concur is not built (make build)"
end
local baseline, made_with
if not writing then
  baseline, made_with = read_baseline()
  if not baseline then
    fail(BASELINE .. " is missing")
  end
end
local tolerance = TOLERANCE
if baseline and made_with ~= toolchain() then
  tolerance = TOLERANCE_ELSEWHERE
  print(("the baseline was made with %s, this is %s: rows may grow by %.0f%%"):format(made_with,
    toolchain(), 100 * tolerance))
end
local out = build .. "/bench/callgrind.out"

print(("%-18s %10s %10s %8s %10s %8s"):format("instructions", "concur", "limit", "ratio",
  "baseline", "change"))
local results, grown = {}, 0
for _, row in ipairs(ROWS) do
  local name = row[1]
  if not next(wanted) or wanted[name] then
    local workload = workloads.load(name)
    local result = {
      name = name,
      concur = per_operation(workload, "concur", row, out),
      limit = with_limit and per_operation(workload, "limit", row, out) or baseline[name]
        and baseline[name].limit or 0,
    }
    results[#results + 1] = result
    local before = baseline and baseline[name]
    local change = before and result.concur / before.concur - 1
    local verdict = ""
    if baseline and not before then
      verdict = "  not in the baseline"
      grown = grown + 1
    elseif change and change > tolerance then
      verdict = "  GROWN"
      grown = grown + 1
    elseif change and change < -tolerance then
      verdict = "  better: make a new baseline"
    end
    print(("%-18s %10.1f %10.1f %8.2f %10s %8s%s"):format(name, result.concur, result.limit,
      result.concur / result.limit, before and ("%.1f"):format(before.concur) or "-",
      change and ("%+.1f%%"):format(100 * change) or "-", verdict))
    io.flush()
  end
end

if writing then
  write_baseline(results)
  print("written to " .. BASELINE)
elseif grown > 0 then
  print(("%d row(s) grew by more than %.0f%% or are new"):format(grown, 100 * tolerance))
  os.exit(1)
end
