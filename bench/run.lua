-- SPDX-License-Identifier: MIT
-- The benchmarks: concur, the raw limit and the peers, interleaved, as ratios.
--
--     make bench                                    everything that this machine has
--     lua5.4 bench/run.lua [options] [WORKLOAD...]  from the root of the repository; --help
--
-- bench/README.md describes the method.

package.path = "bench/?.lua;" .. package.path

local chart = require "harness.chart"
local goals = require "harness.goals"
local history = require "harness.history"
local json = require "harness.json"
local peers = require "harness.peers"
local report = require "harness.report"
local stats = require "harness.stats"
local system = require "harness.system"
local workloads = require "harness.workloads"

local USAGE = [[
usage: lua5.4 bench/run.lua [options] [WORKLOAD...]     (from the root of the repository)

  WORKLOAD       its name, or what several names begin with: echo for nine, echo_50 for three
  --rounds N     samples of each implementation (default 5)
  --seconds S    length of a sample (default 0.2)
  --only NAMES   implementations to run, with commas: concur,limit,luv
  --clock CLOCK  wall or cpu, instead of each workload's own
  --json FILE    where the result goes (default: bench.json in the build directory), and
                 beside it a picture (.svg) and tables (.md, and -echo.md for the servers)
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
    names = {},
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
      options.names[#options.names + 1] = word
    end
    i = i + 1
  end
  options.json = options.json or options.build .. "/bench.json"
  return options
end

local function choose_workloads(names)
  local chosen, unknown = workloads.choose(names)
  return chosen or fail(("there is no workload '%s' (--list prints them)"):format(unknown))
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
local function measure(runs, options)
  for _, run in ipairs(runs) do
    run.samples, run.failed = {}, {}
    for _, name in ipairs(run.names) do
      run.samples[name] = {}
    end
  end
  for round = 1, options.rounds do
    io.stderr:write(("round %d of %d\n"):format(round, options.rounds))
    for _, run in ipairs(runs) do
      take_turns(run, options)
    end
  end
end

-- Everything ------------------------------------------------------------------------------------

local function describe_machine()
  local function ask(command)
    return system.first_line(command) or "unknown"
  end
  return {
    processor = ask "sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo",
    processors = ask "getconf _NPROCESSORS_ONLN",
    system = ask "uname -sr":match "^%S+ %d+%.?%d*",
    libuv = ask "pkg-config --modversion libuv",
    compiler = ask "cc --version",
    revision = ask "git rev-parse --short HEAD",
    date = os.date "!%Y-%m-%dT%H:%M:%SZ",
  }
end

local function choose_implementations(workload, present, only)
  local names = {}
  for _, name in ipairs(peers.order) do
    if present[name] and peers.has(workload, name) and (not only or only[name]) then
      names[#names + 1] = name
    end
  end
  return names
end

local function print_list(chosen)
  for _, workload in ipairs(chosen) do
    local names = {}
    for _, name in ipairs(peers.order) do
      if peers.has(workload, name) then
        names[#names + 1] = name
      end
    end
    print(("%-18s %-28s %s"):format(workload.name, workload.title, table.concat(names, " ")))
  end
end

local function print_who(machine, present, missing)
  print(("%s, %s processors, %s, libuv %s"):format(machine.processor, machine.processors,
    machine.system, machine.libuv))
  for _, name in ipairs(peers.order) do
    if present[name] then
      print(("  %-16s %s"):format(peers.titles[name], present[name]))
    elseif missing[name] then
      print(("  %-16s MISSING: not measured (install %s)"):format(peers.titles[name],
        missing[name]))
    end
  end
end

-- The tables for a document, the servers in one of their own.
local function write_tables(base, heading, results, compared)
  local tables = { [base .. ".md"] = {}, [base .. "-echo.md"] = {} }
  for _, result in ipairs(results) do
    table.insert(tables[base .. (result.server and "-echo.md" or ".md")], result)
  end
  for path, rows in pairs(tables) do
    if #rows > 0 then
      system.write_file(path, heading .. "\n\n" .. report.markdown(rows, compared))
    end
  end
end

local options = parse(arg)
local chosen = choose_workloads(options.names)
if options.list then
  print_list(chosen)
  os.exit(0)
end

local present, missing = peers.find(options.build)
local machine = describe_machine()
print_who(machine, present, missing)
print(("%d rounds, %g s a sample, median (min to max)"):format(options.rounds, options.seconds))

local runs = {}
for i, workload in ipairs(chosen) do
  runs[i] = { workload = workload,
    names = choose_implementations(workload, present, options.only) }
end
measure(runs, options)

local results, any_failed = {}, false
for i, run in ipairs(runs) do
  local workload, samples, failed = run.workload, run.samples, run.failed
  local verdicts = goals.judge(workload, samples)
  report.print_workload(workload, run.names, samples, failed, verdicts)
  any_failed = any_failed or next(failed) ~= nil
  results[i] = {
    name = workload.name,
    title = workload.title,
    unit = workload.unit,
    server = workload.server,
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
  print("\n" .. history.compare(options.build .. "/bench.last", machine, results))
end
print()
system.write_file(options.json, json.encode {
  machine = machine,
  present = present,
  missing = missing,
  rounds = options.rounds,
  seconds = options.seconds,
  workloads = results,
} .. "\n")
local base = options.json:gsub("%.json$", "")
system.write_file(base .. ".svg", chart.draw(results))
write_tables(base, report.heading(machine, present, missing, options), results, compared)
os.exit(any_failed and 1 or 0)
