-- SPDX-License-Identifier: MIT
-- The benchmarks: concur, the raw limit and the peers, interleaved, as ratios.
--
--     make bench                                    everything that this machine has
--     lua5.4 bench/run.lua [options] [WORKLOAD...]  from the root of the repository; --help
--
-- bench/README.md describes the method.

package.path = "bench/?.lua;" .. package.path

local chart = require "harness.chart"
local history = require "harness.history"
local json = require "harness.json"
local peers = require "harness.peers"
local report = require "harness.report"
local stats = require "harness.stats"

-- In the order of the report.
local WORKLOADS = {
  "sleep0_1",
  "sleep0_100",
  "spawn_result",
  "spawn_gather",
  "future_ready",
  "future_handoff",
  "queue_64",
  "queue_1",
  "lock_free",
  "lock_contended",
  "event",
  "timeout",
  "group",
  "sleepers",
  "thread_roundtrip",
  "thread_throughput",
  "process_roundtrip",
  "process_throughput",
  "transfer_table",
  "transfer_list",
  "transfer_string",
  "transfer_buffer",
  "fib",
  "echo_64",
  "echo_16k",
  "echo_1000",
  "startup",
}

local USAGE = [[
usage: lua5.4 bench/run.lua [options] [WORKLOAD...]     (from the root of the repository)

  --rounds N     samples of each implementation (default 5)
  --seconds S    length of a sample (default 0.2)
  --only NAMES   implementations to run, with commas: concur,limit,luv
  --clock CLOCK  wall or cpu, instead of each workload's own
  --json FILE    where the result goes (default: bench.json in the build directory), and
                 beside it a picture (.svg) and a table (.md)
  --list         print the workloads and the implementations of each
  --help         print this text

CONCUR_BENCH_QUICK=1 makes one short round: whether everything runs, not how fast.
]]

-- The command line ------------------------------------------------------------------------------

local function fail(text)
  io.stderr:write("bench: ", text, "\n")
  os.exit(2)
end

local function positive(name, value)
  local number = tonumber(value)
  if not number or number ~= number or number <= 0 then
    fail(name .. " needs a positive number")
  end
  return number
end

local function parse(arguments)
  local quick = os.getenv "CONCUR_BENCH_QUICK" == "1"
  local options = {
    rounds = quick and 1 or 5,
    seconds = quick and 0.01 or 0.2,
    build = os.getenv "CONCUR_BUILD" or "build",
    quick = quick,
    workloads = {},
  }
  local with_value = {
    ["--rounds"] = function(value)
      options.rounds = math.ceil(positive("--rounds", value))
    end,
    ["--seconds"] = function(value)
      options.seconds = positive("--seconds", value)
    end,
    ["--only"] = function(value)
      options.only = {}
      for name in value:gmatch "[^,]+" do
        if not peers.titles[name] then
          fail(("there is no implementation '%s'"):format(name))
        end
        options.only[name] = true
      end
    end,
    ["--clock"] = function(value)
      if value ~= "wall" and value ~= "cpu" then
        fail "--clock must be wall or cpu"
      end
      options.clock = value
    end,
    ["--json"] = function(value)
      options.json = value
    end,
  }
  local i = 1
  while i <= #arguments do
    local word = arguments[i]
    if with_value[word] then
      i = i + 1
      with_value[word](arguments[i] or fail(word .. " needs a value"))
    elseif word == "--list" then
      options.list = true
    elseif word == "--help" then
      io.write(USAGE)
      os.exit(0)
    elseif word:sub(1, 1) == "-" then
      fail(("unknown option '%s'"):format(word))
    else
      options.workloads[#options.workloads + 1] = word
    end
    i = i + 1
  end
  options.json = options.json or options.build .. "/bench.json"
  return options
end

local function load_workloads(names)
  local known, chosen = {}, {}
  for _, name in ipairs(WORKLOADS) do
    known[name] = true
  end
  for i, name in ipairs(#names > 0 and names or WORKLOADS) do
    if not known[name] then
      fail(("there is no workload '%s' (--list prints them)"):format(name))
    end
    chosen[i] = dofile("bench/workloads/" .. name .. ".lua")
    chosen[i].name = name
  end
  return chosen
end

-- Measuring -------------------------------------------------------------------------------------

-- The median of the parts that a child process measured; nil and what went wrong if it failed.
local function take_sample(workload, name, options)
  local command = peers.command(workload, name, options.seconds)
  local pipe <close> = io.popen("timeout 120 " .. command .. " 2>&1")
  local output = pipe:read "a"
  local wall, cpu = {}, {}
  for first, second in output:gmatch "([%d.e+-]+)%s+([%d.e+-]+)\n" do
    wall[#wall + 1], cpu[#cpu + 1] = tonumber(first), tonumber(second)
  end
  if not pipe:close() or #wall == 0 then
    return nil, output
  end
  local clock = options.clock or workload.clock or "wall"
  return stats.median(clock == "cpu" and cpu or wall)
end

-- One more sample of each implementation of a workload, unless it has failed.
local function take_turns(run, options)
  for _, name in ipairs(run.names) do
    if not run.failed[name] then
      local sample, problem = take_sample(run.workload, name, options)
      if sample then
        table.insert(run.samples[name], sample)
      else
        run.failed[name] = problem
        run.samples[name] = nil
      end
    end
  end
end

-- All samples of all workloads: a list of {workload, names, samples = {name = {one for each round}},
-- failed = {name = problem}}. A round is one sample of everything, so that what the machine does for
-- a minute is in the spread of every row, and not in the median of one.
local function measure(chosen, options)
  for _, run in ipairs(chosen) do
    run.samples, run.failed = {}, {}
    for _, name in ipairs(run.names) do
      run.samples[name] = {}
    end
  end
  for round = 1, options.rounds do
    io.stderr:write(("round %d of %d\n"):format(round, options.rounds))
    for _, run in ipairs(chosen) do
      take_turns(run, options)
    end
  end
end

-- Whether each goal of the workload is met; without a ratio where one side was not measured.
local function judge(workload, samples)
  local verdicts = {}
  for i, goal in ipairs(workload.goals or {}) do
    local verdict = { against = goal[1], at_most = goal.at_most, faster = goal.faster,
      note = goal.note }
    local concur, other = samples.concur, samples[goal[1]]
    if concur and other and goal.at_most then
      verdict.ratio = stats.ratio(concur, other)
      verdict.met = verdict.ratio.median <= goal.at_most
    elseif concur and other then
      verdict.ratio = stats.ratio(other, concur)
      verdict.met = verdict.ratio.median >= goal.faster
    end
    verdicts[i] = verdict
  end
  return verdicts
end

-- Everything ------------------------------------------------------------------------------------

local function command_output(command)
  local pipe <close> = io.popen(command .. " 2>/dev/null")
  return (pipe:read "l" or "unknown")
end

local function describe_machine()
  return {
    processor = command_output "sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo",
    processors = command_output "getconf _NPROCESSORS_ONLN",
    system = command_output "uname -sr":match "^%S+ %d+%.?%d*",
    libuv = command_output "pkg-config --modversion libuv",
    compiler = command_output "cc --version",
    revision = command_output "git rev-parse --short HEAD",
    date = os.date "!%Y-%m-%dT%H:%M:%SZ",
  }
end

local function choose(workload, present, only)
  local names = {}
  for _, name in ipairs(peers.order) do
    if present[name] and peers.has(workload, name) and (not only or only[name]) then
      names[#names + 1] = name
    end
  end
  return names
end

local function print_list(workloads)
  for _, workload in ipairs(workloads) do
    local names = {}
    for _, name in ipairs(peers.order) do
      if peers.has(workload, name) then
        names[#names + 1] = name
      end
    end
    print(("%-18s %-28s %s"):format(workload.name, workload.title, table.concat(names, " ")))
  end
end

local function write_file(path, text)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(text))
  print("written to " .. path)
end

local options = parse(arg)
local workloads = load_workloads(options.workloads)
if options.list then
  print_list(workloads)
  os.exit(0)
end

local present, missing = peers.find(options.build)
local machine = describe_machine()
print(("%s, %s processors, %s, libuv %s"):format(machine.processor, machine.processors,
  machine.system, machine.libuv))
for _, name in ipairs(peers.order) do
  if present[name] then
    print(("  %-16s %s"):format(peers.titles[name], present[name]))
  elseif missing[name] then
    print(("  %-16s MISSING: not measured (install %s)"):format(peers.titles[name], missing[name]))
  end
end
print(("%d rounds, %g s a sample, median (min to max)"):format(options.rounds, options.seconds))

local chosen = {}
for i, workload in ipairs(workloads) do
  chosen[i] = { workload = workload, names = choose(workload, present, options.only) }
end
measure(chosen, options)

local results, any_failed = {}, false
for i, run in ipairs(chosen) do
  local workload, samples, failed = run.workload, run.samples, run.failed
  local verdicts = judge(workload, samples)
  report.print_workload(workload, run.names, samples, failed, verdicts)
  any_failed = any_failed or next(failed) ~= nil
  results[i] = {
    name = workload.name,
    title = workload.title,
    unit = workload.unit,
    clock = options.clock or workload.clock or "wall",
    samples = samples, -- nanoseconds
    goals = verdicts,
    failed = failed,
  }
end
local compared = {}
for _, name in ipairs(peers.order) do
  if present[name] and name ~= "wrap" and (not options.only or options.only[name]) then
    compared[#compared + 1] = name
  end
end
report.print_summary(results, compared)
if not options.quick then
  history.compare(options.build .. "/bench.last", machine, results)
end
print()
write_file(options.json, json.encode {
  machine = machine,
  present = present,
  missing = missing,
  rounds = options.rounds,
  seconds = options.seconds,
  workloads = results,
} .. "\n")
local base = options.json:gsub("%.json$", "")
write_file(base .. ".svg", chart.draw(results))
write_file(base .. ".md", report.heading(machine, present, missing, options) .. "\n\n"
  .. report.markdown(results, compared))
os.exit(any_failed and 1 or 0)
