-- SPDX-License-Identifier: MIT
-- The echo server of examples/14_all_cores_server.lua with one worker thread and with two, under the
-- same load: what a second loop on the same port (reuseport) gives.
--
--   make bench-cores [BENCH="CONNECTIONS BYTES SECONDS ROUNDS"]
--
-- Two clients make the load. They need processors too: on a machine with two, servers and clients
-- share them, so what is shown is the processor time that the server got, beside its messages.

local build = os.getenv "CONCUR_BUILD" or "build"
local lua = os.getenv "CONCUR_LUA" or "lua5.4"

local connections, bytes = tonumber(arg[1]) or 50, tonumber(arg[2]) or 64
local seconds, rounds = tonumber(arg[3]) or 1, tonumber(arg[4]) or 5

assert(os.execute(("%s -O2 -D_GNU_SOURCE -o %s/bench-echo-client bench/echo/client.c"):format(
  os.getenv "CC" or "cc", build)))

local function cpu_seconds(pid)
  local total = 0
  local list <close> = assert(io.popen(("cat /proc/%d/task/*/schedstat"):format(pid)))
  for line in list:lines() do
    total = total + tonumber(line:match "^%d+") / 1e9
  end
  return total
end

local function measure(workers)
  local server <close> = assert(io.popen(("echo $$; exec %s examples/14_all_cores_server.lua 0 %d")
    :format(lua, workers)))
  local pid = server:read "n"
  local _, line = server:read("l", "l")
  local port = line and line:match "port (%d+)"
  assert(port, "the server does not start")
  local clients, rate = {}, 0
  for i = 1, 2 do
    clients[i] = assert(io.popen(("%s/bench-echo-client %d %d %d %g"):format(build, port,
      connections, bytes, seconds)))
  end
  for _, client in ipairs(clients) do
    assert(client:read "l" == "begin")
  end
  local before = cpu_seconds(pid)
  for _, client in ipairs(clients) do
    rate = rate + client:read "n"
    client:close()
  end
  local cpu = cpu_seconds(pid) - before
  os.execute(("kill -INT %d"):format(pid))
  return rate, cpu / seconds
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local rates, shares = { {}, {} }, { {}, {} }
for round = 1, rounds do
  for workers = 1, 2 do
    rates[workers][round], shares[workers][round] = measure(workers)
  end
end
for workers = 1, 2 do
  print(("%d worker%s  %8.0f messages/s  %.2f processors busy"):format(workers,
    workers == 1 and " " or "s", median(rates[workers]), median(shares[workers])))
end
