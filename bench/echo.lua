-- SPDX-License-Identifier: MIT
-- TCP echo: how many messages a second a server returns, next to libuv in C and to the peers.
--
--   make bench-echo                             every row
--   make bench-echo BENCH="--rounds 3 --only concur,luv 50x64"
--   make bench-echo BENCH="--clock cpu"         on a machine that others use at the same time
--
-- A row is CONNECTIONSxBYTES. Server and client are processes of their own, each on a processor of
-- its own where there are two. The servers take turns, round by round; ratios to the limit are
-- formed within a round, and shown is their median with the spread. With `--clock cpu` what counts
-- is the processor's time that the server spends on a message, instead of messages per second.

local build = os.getenv "CONCUR_BUILD" or "build"
local lua = os.getenv "CONCUR_LUA" or "lua5.4"

local function run(command)
  return (os.execute(command .. " >/dev/null 2>&1")) == true
end

-- The first python that has uvloop: another one may come first in the path.
local python = "python3"
for _, candidate in ipairs { "python3", "/usr/bin/python3" } do
  if run(candidate .. " -c 'import uvloop'") then
    python = candidate
    break
  end
end

local SERVERS = {
  { name = "limit", command = build .. "/bench-echo-limit" },
  { name = "concur", command = lua .. " bench/echo/concur.lua" },
  { name = "luv", command = lua .. " bench/echo/luv.lua", needs = lua .. " -e 'require \"luv\"'" },
  { name = "cqueues", command = lua .. " bench/echo/cqueues.lua",
    needs = lua .. " -e 'require \"cqueues\"'" },
  { name = "uvloop protocol", command = python .. " bench/echo/python.py uvloop protocol",
    needs = python .. " -c 'import uvloop'" },
  { name = "uvloop streams", command = python .. " bench/echo/python.py uvloop streams",
    needs = python .. " -c 'import uvloop'" },
  { name = "node", command = "node bench/echo/node.js", needs = "node -e 0" },
}

local ROWS = { "1x64", "1x1024", "1x16384", "50x64", "50x1024", "50x16384", "1000x64", "1000x1024",
  "1000x16384" }

-- ---------------------------------------------------------------------------------------------
-- Settings
-- ---------------------------------------------------------------------------------------------

local rounds, seconds, only, rows, by_cpu = 5, 1, nil, {}, false
do
  local i = 1
  while arg[i] do
    if arg[i] == "--rounds" then
      rounds, i = assert(math.tointeger(tonumber(arg[i + 1])), "--rounds COUNT"), i + 1
    elseif arg[i] == "--seconds" then
      seconds, i = assert(tonumber(arg[i + 1]), "--seconds SECONDS"), i + 1
    elseif arg[i] == "--clock" then
      by_cpu, i = assert(arg[i + 1], "--clock cpu|wall") == "cpu", i + 1
    elseif arg[i] == "--only" then
      only, i = {}, i + 1
      for name in assert(arg[i], "--only NAME,NAME"):gmatch "[^,]+" do
        only[name] = true
      end
    else
      assert(arg[i]:find "^%d+x%d+$", "a row is CONNECTIONSxBYTES, not " .. arg[i])
      rows[#rows + 1] = arg[i]
    end
    i = i + 1
  end
  if #rows == 0 then
    rows = ROWS
  end
end

local function output(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read "a"
end

-- ---------------------------------------------------------------------------------------------
-- Preparing
-- ---------------------------------------------------------------------------------------------

local flags = output "pkg-config --cflags --libs libuv"
local compiler = os.getenv "CC" or "cc"
for _, name in ipairs { "limit", "client" } do
  assert(os.execute(("%s -O2 -D_GNU_SOURCE -o %s/bench-echo-%s bench/echo/%s.c %s"):format(compiler,
    build, name, name, flags:gsub("\n", " "))))
end

-- With two processors each side has its own; else they share the one.
local pinned = run "taskset -c 1 true"
local on_server = pinned and "taskset -c 0 " or ""
local on_client = pinned and "taskset -c 1 " or ""

local servers = {}
for _, server in ipairs(SERVERS) do
  if not only or only[server.name] or server.name == "limit" then
    if server.needs and not run(server.needs) then
      print("MISSING: " .. server.name)
    else
      servers[#servers + 1] = server
    end
  end
end

-- ---------------------------------------------------------------------------------------------
-- Measuring
-- ---------------------------------------------------------------------------------------------

local function start(server)
  -- The shell prints its id and becomes the server.
  local pipe = assert(io.popen(("echo $$; exec %s%s"):format(on_server, server.command)))
  local pid, port = pipe:read("n", "n")
  assert(port, server.name .. " does not start")
  return pipe, pid, port
end

-- Nanoseconds that a process has spent on a processor; 0 where the system does not tell.
local function cpu_ns(pid)
  local file <close> = io.open(("/proc/%d/schedstat"):format(pid))
  return file and file:read "n" or 0
end

local function measure(server, connections, bytes)
  local pipe, pid, port = start(server)
  local client = assert(io.popen(("%s%s/bench-echo-client %d %d %d %g"):format(on_client, build,
    port, connections, bytes, seconds)))
  local begun = client:read "l"
  local before = cpu_ns(pid)
  local rate, _, slow = client:read("n", "n", "n")
  local cpu = (cpu_ns(pid) or before) - before
  client:close()
  os.execute(("kill %d"):format(pid))
  pipe:close()
  if begun ~= "begin" or not slow then
    return nil
  end
  return { rate = rate, slow_us = slow, cpu_us = cpu / 1000 / (rate * seconds) }
end

local function median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local middle = (#sorted + 1) // 2
  return #sorted % 2 == 1 and sorted[middle] or (sorted[middle] + sorted[middle + 1]) / 2,
    sorted[1], sorted[#sorted]
end

local function report(row, samples)
  print(("\n%s connections of %s bytes"):format(row:match "^(%d+)x(%d+)$"))
  for _, server in ipairs(servers) do
    local ratios, rates, cpus, slow = {}, {}, {}, {}
    for round = 1, rounds do
      local sample, limit = samples[server.name][round], samples.limit[round]
      if sample and limit then
        ratios[#ratios + 1] = by_cpu and limit.cpu_us / sample.cpu_us or sample.rate / limit.rate
        rates[#rates + 1], cpus[#cpus + 1] = sample.rate, sample.cpu_us
        slow[#slow + 1] = sample.slow_us
      end
    end
    if #ratios == 0 then
      print(("  %-16s FAILED"):format(server.name))
    else
      local ratio, low, high = median(ratios)
      print(("  %-16s %5.2f x limit  (%.2f to %.2f)  %8.0f/s  %6.2f us of cpu  99%% within %.0f us")
        :format(server.name, ratio, low, high, (median(rates)), (median(cpus)), (median(slow))))
    end
  end
end

for _, row in ipairs(rows) do
  local connections, bytes = row:match "^(%d+)x(%d+)$"
  local samples = {}
  for round = 1, rounds do
    for _, server in ipairs(servers) do
      samples[server.name] = samples[server.name] or {}
      samples[server.name][round] = measure(server, connections, bytes) or false
    end
  end
  report(row, samples)
end
